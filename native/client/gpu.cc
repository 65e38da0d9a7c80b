#include "client/gpu.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

namespace cairn {

namespace {

constexpr const char* kLibrary = "libcuda.so.1";
std::atomic<Gpu*> the_driver{nullptr};

class Symbols {
 public:
  explicit Symbols(void* handle) : handle_(handle) {}
  template <class Function>
  void find(Function& function, const char* name, bool needed = true) {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (function == nullptr && needed && missing_.empty()) missing_ = name;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* handle_;
  std::string missing_;
};

// The name of the first function that the library should have and has not; empty: it has all.
std::string find_functions(void* handle, cuda::Functions& call) {
  CAIRN_CHECK(handle != nullptr, "functions are looked for in a library that was not loaded");
  Symbols symbols(handle);
  symbols.find(call.init, "cuInit");
  symbols.find(call.driver_version, "cuDriverGetVersion");
  symbols.find(call.device_count, "cuDeviceGetCount");
  symbols.find(call.device_get, "cuDeviceGet");
  symbols.find(call.device_attribute, "cuDeviceGetAttribute");
  symbols.find(call.primary_retain, "cuDevicePrimaryCtxRetain");
  symbols.find(call.push_current, "cuCtxPushCurrent_v2");
  symbols.find(call.pop_current, "cuCtxPopCurrent_v2");
  symbols.find(call.pointer_attribute, "cuPointerGetAttribute");
  symbols.find(call.set_pointer_attribute, "cuPointerSetAttribute");
  symbols.find(call.range_handle, "cuMemGetHandleForAddressRange", false);
  symbols.find(call.host_register, "cuMemHostRegister_v2");
  symbols.find(call.host_unregister, "cuMemHostUnregister");
  symbols.find(call.stream_create, "cuStreamCreate");
  symbols.find(call.stream_synchronize, "cuStreamSynchronize");
  symbols.find(call.copy_to_host, "cuMemcpyDtoHAsync_v2");
  symbols.find(call.copy_to_device, "cuMemcpyHtoDAsync_v2");
  symbols.find(call.error_string, "cuGetErrorString");
  symbols.find(call.flush_remote_writes, "cuFlushGPUDirectRDMAWrites", false);
  return symbols.missing();
}

std::string hex(uint64_t address) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  do {
    text.insert(text.begin(), kDigits[address & 15]);
    address >>= 4;
  } while (address > 0);
  return "0x" + text;
}

}  // namespace

DmaBuf::~DmaBuf() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

// The context of a GPU on this thread, for as long as it lives.
class Gpu::Current {
 public:
  Current(const cuda::Functions& call, const Card& card) : call_(call), code_(call.push_current(card.context)) {}
  ~Current() {
    cuda::Context popped = nullptr;
    if (code_ == cuda::kSuccess) (void)call_.pop_current(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  cuda::Code code() const { return code_; }

 private:
  const cuda::Functions& call_;
  cuda::Code code_;
};

// --- loading ---------------------------------------------------------------------------------------------

Gpu* Gpu::loaded() {
  return the_driver.load(std::memory_order_acquire);
}

Result<Gpu*> Gpu::load() {
  // Without a lock, which a forked child might find held: of two threads that load it, one throws its own away.
  if (Gpu* driver = loaded()) return driver;
  void* handle = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);  // never closed: its threads and contexts live on
  if (handle == nullptr) {
    const char* reason = dlerror();
    return Error{
        0, "GPU memory cannot be used here: NVIDIA's driver is not installed, or not visible in this container (" +
               std::string(reason != nullptr ? reason : kLibrary) + ")"};
  }
  std::unique_ptr<Gpu> driver(new Gpu);
  const std::string missing = find_functions(handle, driver->call_);
  if (!missing.empty()) {
    return Error{0, "GPU memory cannot be used here: " + std::string(kLibrary) + " has no " + missing +
                        "; install a newer NVIDIA driver"};
  }
  if (auto started = driver->start(); !started) return started.error();
  Gpu* first = nullptr;
  if (!the_driver.compare_exchange_strong(first, driver.get(), std::memory_order_acq_rel)) return first;
  return driver.release();  // for as long as the process lives
}

Result<Unit> Gpu::start() {
  constexpr const char* kWhat = "GPU memory cannot be used here";
  if (const cuda::Code code = call_.init(0); code != cuda::kSuccess) return failed(kWhat, code);
  if (const cuda::Code code = call_.driver_version(&version_); code != cuda::kSuccess) return failed(kWhat, code);
  if (const cuda::Code code = call_.device_count(&count_); code != cuda::kSuccess) return failed(kWhat, code);
  if (count_ <= 0) return Error{0, std::string(kWhat) + ": the driver shows no GPU (CUDA_VISIBLE_DEVICES?)"};
  count_ = std::min(count_, kGpusMost);
  return Unit{};
}

std::string Gpu::text_of(cuda::Code code) const {
  const char* text = nullptr;
  if (call_.error_string(code, &text) != cuda::kSuccess || text == nullptr) text = "an unknown error";
  return std::string(text) + " (CUDA error " + std::to_string(code) + ")";
}

Error Gpu::failed(const std::string& what, cuda::Code code) const {
  CAIRN_CHECK(code != cuda::kSuccess, "a call that succeeded is told as one that failed");
  return Error{0, what + ": " + text_of(code)};
}

Result<const Gpu::Card*> Gpu::card(int gpu) {
  if (fork_generation() != generation_) {
    return Error{0,
                 "the driver of GPUs does not work in a process that was forked after it was loaded: start the "
                 "process with multiprocessing's 'spawn', or let only it use GPUs",
                 0};
  }
  if (gpu < 0 || gpu >= count_) {
    return Error{0, "there is no GPU " + std::to_string(gpu) + " here: the driver shows " + std::to_string(count_)};
  }
  const std::lock_guard<std::mutex> held(lock_);
  Card& card = cards_[static_cast<size_t>(gpu)];
  if (card.stream != nullptr) return &card;
  const std::string what = "cannot use GPU " + std::to_string(gpu);
  cuda::Device device = 0;
  if (const cuda::Code code = call_.device_get(&device, gpu); code != cuda::kSuccess) return failed(what, code);
  if (card.context == nullptr) {
    if (const cuda::Code code = call_.primary_retain(&card.context, device); code != cuda::kSuccess)
      return failed(what, code);
    if (card.context == nullptr) return Error{0, what + ": the driver gives it no context, and says it did", 0};
  }
  const Current current(call_, card);
  if (current.code() != cuda::kSuccess) return failed(what, current.code());
  int ordering = 0;
  if (call_.device_attribute(&ordering, cuda::kDeviceWritesOrdering, device) != cuda::kSuccess) ordering = 0;
  card.ordered = ordering >= cuda::kOrderedForOwner;
  if (const cuda::Code code = call_.stream_create(&card.stream, cuda::kStreamNonBlocking); code != cuda::kSuccess) {
    card.stream = nullptr;
    return failed(what, code);
  }
  return &card;
}

// --- whose memory it is ----------------------------------------------------------------------------------

int Gpu::owner_of(uint64_t address) {
  if (fork_generation() != generation_) return kHostMemory;
  unsigned type = 0;
  if (call_.pointer_attribute(&type, cuda::kPointerMemoryType, address) != cuda::kSuccess) return kHostMemory;
  if (type != cuda::kMemoryDevice) {
    // Managed memory wanders: its type says where it is just now.
    unsigned managed = 0;
    if (call_.pointer_attribute(&managed, cuda::kPointerIsManaged, address) != cuda::kSuccess || managed == 0)
      return kHostMemory;
  }
  int ordinal = -1;
  if (call_.pointer_attribute(&ordinal, cuda::kPointerDeviceOrdinal, address) != cuda::kSuccess) return kHostMemory;
  return ordinal >= 0 && ordinal < count_ ? ordinal : kHostMemory;
}

Result<int> Gpu::find(uint64_t address, uint64_t bytes, int wanted) {
  CAIRN_CHECK(wanted >= 0 || wanted == kAnyGpu, "memory is looked for on no GPU");
  if (bytes == 0 || bytes > UINT64_MAX - address) return Error{0, "memory of a GPU has at least one byte, and an end"};
  if (wanted >= count_) return card(wanted).error();
  const int first = owner_of(address);
  const int last = owner_of(address + bytes - 1);
  if (first == kHostMemory)
    return Error{0, "the address " + hex(address) + " is no memory of a GPU that this process sees"};
  if (last != first) {
    return Error{0, "the " + std::to_string(bytes) + " bytes at " + hex(address) + " reach beyond the memory of GPU " +
                        std::to_string(first)};
  }
  if (wanted != kAnyGpu && wanted != first) {
    return Error{0, "the address " + hex(address) + " lies on GPU " + std::to_string(first) + ", not on GPU " +
                        std::to_string(wanted)};
  }
  if (auto opened = card(first); !opened) return opened.error();
  return first;
}

// --- copies ----------------------------------------------------------------------------------------------

template <class Enqueue>
bool Gpu::copy(int gpu, std::span<const GpuPiece> pieces, std::string& error, Enqueue enqueue) {
  const std::string what = "cannot copy between the host and GPU " + std::to_string(gpu);
  auto opened = card(gpu);
  if (!opened) {
    error = opened.error().message;
    return false;
  }
  const Card& card = *opened.value();
  const Current current(call_, card);
  cuda::Code code = current.code();
  if (code != cuda::kSuccess) {
    error = failed(what, code).message;
    return false;
  }
  for (const GpuPiece& piece : pieces) {
    CAIRN_CHECK(piece.host != nullptr, "bytes are copied from or to nowhere");
    if (piece.bytes > 0 && code == cuda::kSuccess) code = enqueue(piece, card.stream);
  }
  // Also after an error: what was begun has to be over before anybody else uses the memory.
  const cuda::Code waited = call_.stream_synchronize(card.stream);
  if (code == cuda::kSuccess) code = waited;
  if (code == cuda::kSuccess) return true;
  error = failed(what, code).message;
  return false;
}

bool Gpu::copy_to_host(int gpu, std::span<const GpuPiece> pieces, std::string& error) {
  return copy(gpu, pieces, error, [this](const GpuPiece& piece, cuda::Stream stream) {
    return call_.copy_to_host(piece.host, piece.address, piece.bytes, stream);
  });
}

bool Gpu::copy_to_device(int gpu, std::span<const GpuPiece> pieces, std::string& error) {
  return copy(gpu, pieces, error, [this](const GpuPiece& piece, cuda::Stream stream) {
    return call_.copy_to_device(piece.address, piece.host, piece.bytes, stream);
  });
}

Result<Unit> Gpu::pin(ByteSpan host) {
  CAIRN_CHECK(!host.empty(), "no memory is pinned");
  auto opened = card(0);  // some context has to be current; portable memory is pinned for all
  if (!opened) return opened.error();
  const Current current(call_, *opened.value());
  cuda::Code code = current.code();
  if (code == cuda::kSuccess) code = call_.host_register(host.data(), host.size(), cuda::kHostPortable);
  if (code == cuda::kSuccess) return Unit{};
  return failed("cannot pin " + std::to_string(host.size()) + " bytes of host memory for copies from and to GPUs",
                code);
}

void Gpu::unpin(ByteSpan host) {
  auto opened = card(0);
  if (!opened) return;
  const Current current(call_, *opened.value());
  // At the end of a process the driver may be gone before us: then nothing is pinned any more.
  if (current.code() == cuda::kSuccess) (void)call_.host_unregister(host.data());
}

// --- direct transfers ------------------------------------------------------------------------------------

Result<DmaBuf> Gpu::export_dma_buf(int gpu, uint64_t address, uint64_t bytes) {
  CAIRN_CHECK(bytes > 0, "nothing is exported");
  const std::string name = "GPU " + std::to_string(gpu);
  auto opened = card(gpu);
  if (!opened) return opened.error();
  if (call_.range_handle == nullptr)
    return Error{0, "this NVIDIA driver exports no memory as a dma-buf: it takes one for CUDA 11.7 or newer"};
  cuda::Device device = 0;
  int supported = 0;
  if (call_.device_get(&device, gpu) != cuda::kSuccess ||
      call_.device_attribute(&supported, cuda::kDeviceDmaBufSupported, device) != cuda::kSuccess || supported == 0) {
    return Error{
        0, name + " exports no memory as a dma-buf: that takes NVIDIA's open kernel modules and Linux 5.12 or newer"};
  }
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t first = address / page * page;
  const uint64_t whole = round_up(address + bytes - first, page);
  CAIRN_CHECK(first <= address && address + bytes <= first + whole, "less is exported than was asked for");
  const Current current(call_, *opened.value());
  cuda::Code code = current.code();
  int descriptor = -1;
  if (code == cuda::kSuccess) code = call_.range_handle(&descriptor, first, whole, cuda::kRangeDmaBuf, 0);
  if (code != cuda::kSuccess) return failed(name + " does not export this memory as a dma-buf", code);
  if (descriptor < 0) return Error{0, name + " exported memory as a dma-buf without a descriptor"};
  // Copies by the CUDA runtime into memory that a network card reads have to be over when they return. Not every kind
  // of memory has this switch, and who synchronises before the call, as is asked of callers, needs it not.
  const int on = 1;
  (void)call_.set_pointer_attribute(&on, cuda::kPointerSyncMemops, address);
  return DmaBuf(descriptor, address - first);
}

Result<Unit> Gpu::can_settle_remote_writes(int gpu) {
  auto opened = card(gpu);
  if (!opened) return opened.error();
  if (opened.value()->ordered) return Unit{};
  cuda::Device device = 0;
  int options = 0;
  if (call_.flush_remote_writes != nullptr && call_.device_get(&device, gpu) == cuda::kSuccess &&
      call_.device_attribute(&options, cuda::kDeviceFlushWritesOptions, device) == cuda::kSuccess &&
      (options & cuda::kFlushByHost) != 0) {
    return Unit{};
  }
  return Error{0, "GPU " + std::to_string(gpu) + " neither sees writes of a network card in order nor can be made to"};
}

bool Gpu::settle_remote_writes(int gpu, std::string& error) {
  auto opened = card(gpu);
  if (!opened) {
    error = opened.error().message;
    return false;
  }
  if (opened.value()->ordered) return true;
  CAIRN_CHECK(call_.flush_remote_writes != nullptr, "a network card writes to a GPU that may never see it");
  const Current current(call_, *opened.value());
  cuda::Code code = current.code();
  if (code == cuda::kSuccess) code = call_.flush_remote_writes(cuda::kFlushCurrentContext, cuda::kFlushToOwner);
  if (code == cuda::kSuccess) return true;
  error = failed("GPU " + std::to_string(gpu) + " does not take in what a network card wrote", code).message;
  return false;
}

Result<Unit> Gpu::wait_for_stream(int gpu, uint64_t stream) {
  auto opened = card(gpu);
  if (!opened) return opened.error();
  const Current current(call_, *opened.value());
  cuda::Code code = current.code();
  if (code == cuda::kSuccess) code = call_.stream_synchronize(reinterpret_cast<cuda::Stream>(stream));
  if (code == cuda::kSuccess) return Unit{};
  return failed("cannot wait for a stream of GPU " + std::to_string(gpu), code);
}

}  // namespace cairn
