// Plays 16 kHz 16-bit mono PCM from stdin into the client of docs/clients.md, as a stereo microphone would, with the
// key held for all of it. What it does with its socket goes to stdout, a line for each act.
#include "Speech.h"
#include "WebSocketsModule.h"

struct FSocket : IWebSocket {
    bool bOpen = false;
    void Connect() override {
        std::printf("connect listening=%d\n", OnMessage().IsBound() && OnClosed().IsBound());
        bOpen = true;
        OnConnected().Broadcast();
    }
    void Close(int32, const FString& Reason) override { std::printf("close reason=%s\n", *Reason); }
    bool IsConnected() override { return bOpen; }
    void Send(const FString& Data) override { std::printf("text %s\n", *Data); }
    void Send(const void* Data, SIZE_T Size, bool bIsBinary) override {
        std::printf(bIsBinary ? "binary " : "text ");
        for (SIZE_T Index = 0; Index < Size; ++Index) std::printf("%02x", static_cast<const unsigned char*>(Data)[Index]);
        std::printf("\n");
    }
};
static std::shared_ptr<FSocket> Socket;

TSharedRef<IWebSocket> FWebSocketsModule::CreateWebSocket(
    const FString& Url, const FString& Protocol, const TMap<FString, FString>& Headers) {
    std::printf("create %s protocol=%s", *Url, *Protocol);
    for (const auto& [Name, Value] : Headers.Items) std::printf(" %s: %s", *Name, *Value);
    std::printf("\n");
    Socket = std::make_shared<FSocket>();
    return {Socket};
}

static void Tick(double Seconds) {
    FPlatformTime::Now += Seconds;
    FTSTicker::GetCoreTicker().Delegate.Function(static_cast<float>(Seconds));
}

int main() {
    FSpeech Speech;
    Speech.OnLine = [](const FString& Line) { std::printf("line %s\n", *Line); };
    Speech.OnClosed = [](int32 Code, const FString& Reason) { std::printf("closed %d %s\n", Code, *Reason); };
    Speech.Start(TEXT("ws://server/ws/audio"), TEXT("sesame"));
    Tick(0.1);  // nothing has been heard yet
    std::vector<float> Chunk;
    std::vector<float> Silence(2 * 1600);
    for (int Index = 0; Index < 10; ++Index) {
        Audio::FAudioCapture::OnCapture(Silence.data(), 1600, 2, 16000, 0, false);
        Tick(0.1);
    }
    Speech.Press();
    int16 Sample;
    int Frames = 0;
    while (std::fread(&Sample, sizeof Sample, 1, stdin) == 1) {
        Chunk.push_back(Sample / 32767.0f * 1.5f);  // the two channels differ; their mean is the sample
        Chunk.push_back(Sample / 32767.0f * 0.5f);
        if (++Frames % 160 == 0) {  // 10 ms, as devices deliver
            Audio::FAudioCapture::OnCapture(Chunk.data(), 160, 2, 16000, 0, false);
            Chunk.clear();
        }
        if (Frames % 1600 == 0) Tick(0.1);
    }
    Speech.Release();
    Socket->OnMessage().Broadcast(TEXT("heard"));
    Socket->OnClosed().Broadcast(1012, TEXT("restarting"), true);
    Tick(0.1);  // too early to connect again
    Tick(0.6);
    Socket->OnClosed().Broadcast(4401, TEXT("wrong token"), true);
    Tick(60);
}
