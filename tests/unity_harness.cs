// What docs/clients.md uses of Unity, declared by us after its public scripting reference, and a program that plays
// 16 kHz 16-bit mono PCM into the client there, with the key held for all of it. Not Unity.
//     harness.exe ADDRESS TOKEN PCM_FILE
using System;
using System.IO;
using System.Net.WebSockets;
using System.Reflection;
using System.Threading;

namespace UnityEngine
{
    public class MonoBehaviour { }

    public enum KeyCode { V }

    public class AudioClip
    {
        public float[] Data;
        public int samples { get { return Data.Length; } }
        public int frequency { get { return 16000; } }
        public int channels { get { return 1; } }

        public bool GetData(float[] data, int offset)
        {
            for (int index = 0; index < data.Length; index++) data[index] = Data[(offset + index) % samples];
            return true;
        }
    }

    public static class Microphone
    {
        public static AudioClip Clip = new AudioClip();
        public static int Position;
        public static AudioClip Start(string device, bool loop, int seconds, int frequency)
        {
            Clip.Data = new float[16000 * seconds];
            return Clip;
        }
        public static int GetPosition(string device) { return Position; }
        public static void End(string device) { }
    }

    public static class Input
    {
        public static bool Down, Up;
        public static bool GetKeyDown(KeyCode key) { return Down; }
        public static bool GetKeyUp(KeyCode key) { return Up; }
    }
}

public static class Harness
{
    const BindingFlags Private = BindingFlags.Instance | BindingFlags.NonPublic;
    const int Frame = 320;  // 20 ms, the game's frame

    static void Call(Speech speech, string message)  // as Unity does
    {
        typeof(Speech).GetMethod(message, Private).Invoke(speech, null);
    }

    static bool IsOpen(Speech speech)
    {
        var socket = (ClientWebSocket)typeof(Speech).GetField("socket", Private).GetValue(speech);
        return socket != null && socket.State == WebSocketState.Open;
    }

    static void Hear(Speech speech, float[] samples)
    {
        var clip = UnityEngine.Microphone.Clip;
        for (int index = 0; index < samples.Length; index++)
        {
            clip.Data[UnityEngine.Microphone.Position] = samples[index];
            UnityEngine.Microphone.Position = (UnityEngine.Microphone.Position + 1) % clip.samples;
            if ((index + 1) % Frame == 0) Call(speech, "Update");
        }
    }

    static void Press(Speech speech, bool down)
    {
        UnityEngine.Input.Down = down;
        UnityEngine.Input.Up = !down;
        Call(speech, "Update");
        UnityEngine.Input.Down = UnityEngine.Input.Up = false;
    }

    public static int Main(string[] arguments)
    {
        var over = new ManualResetEvent(false);
        var speech = new Speech { Address = arguments[0], Token = arguments[1] };
        speech.OnLine += line => { Console.WriteLine("line " + line); over.Set(); };
        speech.OnClosed += (code, reason) => { Console.WriteLine("closed " + code); over.Set(); };
        Call(speech, "Start");
        while (!IsOpen(speech) && !over.WaitOne(10)) { }
        byte[] bytes = File.ReadAllBytes(arguments[2]);
        var samples = new float[bytes.Length / 2];
        for (int index = 0; index < samples.Length; index++) samples[index] = BitConverter.ToInt16(bytes, 2 * index) / 32768f;
        Hear(speech, new float[9 * 16000]);  // the clip is a ring of ten seconds: speech goes over its end
        Press(speech, true);
        Hear(speech, samples);
        Press(speech, false);
        bool answered = over.WaitOne(60000);
        Call(speech, "OnDestroy");
        return answered ? 0 : 1;
    }
}
