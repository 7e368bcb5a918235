// What docs/clients.md uses of Unreal, declared by us after its public reference, with as much behaviour as a test
// needs: https://ue.hyverover.com/classIWebSocket.html and the other pages there. Not Unreal: what compiles and runs
// here fits our belief about the API, no more.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

using int16 = int16_t;
using int32 = int32_t;
using uint32 = uint32_t;
using SIZE_T = std::size_t;
using TCHAR = char;
#define TEXT(Literal) Literal

template <typename T> std::remove_reference_t<T>&& MoveTemp(T&& Value) { return std::move(Value); }
template <typename T> void Swap(T& A, T& B) { std::swap(A, B); }

template <typename T> struct TArray {
    std::vector<T> Items;
    int32 Num() const { return static_cast<int32>(Items.size()); }
    const T* GetData() const { return Items.data(); }
    void Add(const T& Item) { Items.push_back(Item); }
    void Append(const TArray& Other) { Items.insert(Items.end(), Other.Items.begin(), Other.Items.end()); }
    void RemoveAt(int32 Index, int32 Count) { Items.erase(Items.begin() + Index, Items.begin() + Index + Count); }
    void Reset() { Items.clear(); }
};

struct FString {
    std::string Text;
    FString() = default;
    FString(const TCHAR* Characters) : Text(Characters) {}
    bool IsEmpty() const { return Text.empty(); }
    const TCHAR* operator*() const { return Text.c_str(); }
    bool operator<(const FString& Other) const { return Text < Other.Text; }
    template <typename... Arguments> static FString Printf(const TCHAR* Format, Arguments... Values) {
        char Buffer[1024];
        std::snprintf(Buffer, sizeof Buffer, Format, Values...);
        return FString(Buffer);
    }
};
inline FString operator+(const TCHAR* Left, const FString& Right) { return FString((Left + Right.Text).c_str()); }

template <typename Key, typename Value> struct TMap {
    std::map<Key, Value> Items;
    void Add(const Key& K, const Value& V) { Items[K] = V; }
};

template <typename Signature> using TFunction = std::function<Signature>;

enum class ESPMode { NotThreadSafe, ThreadSafe };
template <typename T, ESPMode = ESPMode::ThreadSafe> struct TSharedRef {
    std::shared_ptr<T> Object;
    T* operator->() const { return Object.get(); }
};
template <typename T, ESPMode = ESPMode::ThreadSafe> struct TSharedPtr {
    std::shared_ptr<T> Object;
    TSharedPtr() = default;
    TSharedPtr(const TSharedRef<T>& Ref) : Object(Ref.Object) {}
    T* operator->() const { return Object.get(); }
    bool IsValid() const { return Object != nullptr; }
    void Reset() { Object.reset(); }
};
template <typename T, ESPMode Mode = ESPMode::ThreadSafe> TSharedRef<T, Mode> MakeShared() {
    return {std::make_shared<T>()};
}

template <typename... Parameters> struct TMulticastDelegate {
    std::vector<std::function<void(Parameters...)>> Listeners;
    template <typename Lambda> void AddLambda(Lambda&& Listener) { Listeners.emplace_back(Listener); }
    bool IsBound() const { return !Listeners.empty(); }
    void Clear() { Listeners.clear(); }
    void Broadcast(Parameters... Values) const {
        for (const auto& Listener : Listeners) Listener(Values...);
    }
};

using FCriticalSection = std::mutex;
struct FScopeLock {
    std::lock_guard<std::mutex> Guard;
    explicit FScopeLock(FCriticalSection* Section) : Guard(*Section) {}
};

struct FMath {
    template <typename T> static T Min(T A, T B) { return std::min(A, B); }
    template <typename T> static T Clamp(T X, T Low, T High) { return std::clamp(X, Low, High); }
    static int32 RoundToInt(float X) { return static_cast<int32>(std::lround(X)); }
    static double FRandRange(double, double High) { return High; }
};

struct FPlatformTime {
    static inline double Now = 100;
    static double Seconds() { return Now; }
};

struct FModuleManager {
    static FModuleManager& Get() { static FModuleManager Manager; return Manager; }
    void* LoadModule(const FString&) { return nullptr; }
};

struct FTickerDelegate {
    std::function<bool(float)> Function;
    template <typename T> static FTickerDelegate CreateRaw(T* Object, bool (T::*Method)(float)) {
        return {[=](float Delta) { return (Object->*Method)(Delta); }};
    }
};
struct FTSTicker {
    using FDelegateHandle = int32;
    FTickerDelegate Delegate;
    static FTSTicker& GetCoreTicker() { static FTSTicker Ticker; return Ticker; }
    FDelegateHandle AddTicker(const FTickerDelegate& InDelegate, float) { Delegate = InDelegate; return 1; }
    void RemoveTicker(FDelegateHandle) { Delegate = {}; }
};

namespace Audio {
using FOnAudioCaptureFunction = TFunction<void(const void*, int32, int32, int32, double, bool)>;
struct FAudioCaptureDeviceParams {};
struct FAudioCapture {
    static inline FOnAudioCaptureFunction OnCapture;
    bool OpenAudioCaptureStream(const FAudioCaptureDeviceParams&, FOnAudioCaptureFunction Function, uint32) {
        OnCapture = std::move(Function);
        return true;
    }
    bool StartStream() { return true; }
    bool StopStream() { return true; }
    bool CloseStream() { OnCapture = nullptr; return true; }
    bool IsCapturing() const { return OnCapture != nullptr; }
};
}  // namespace Audio

class IWebSocket {
public:
    virtual ~IWebSocket() = default;
    virtual void Connect() = 0;
    virtual void Close(int32 Code = 1000, const FString& Reason = FString()) = 0;
    virtual bool IsConnected() = 0;
    virtual void Send(const FString& Data) = 0;
    virtual void Send(const void* Data, SIZE_T Size, bool bIsBinary = false) = 0;
    TMulticastDelegate<>& OnConnected() { return Connected; }
    TMulticastDelegate<const FString&>& OnConnectionError() { return ConnectionError; }
    TMulticastDelegate<int32, const FString&, bool>& OnClosed() { return Closed; }
    TMulticastDelegate<const FString&>& OnMessage() { return Message; }

private:
    TMulticastDelegate<> Connected;
    TMulticastDelegate<const FString&> ConnectionError, Message;
    TMulticastDelegate<int32, const FString&, bool> Closed;
};

struct FWebSocketsModule {
    static FWebSocketsModule& Get() { static FWebSocketsModule Module; return Module; }
    TSharedRef<IWebSocket> CreateWebSocket(const FString& Url, const FString& Protocol, const TMap<FString, FString>& Headers);
};
