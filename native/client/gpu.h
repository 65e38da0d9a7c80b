// GPU memory, by way of NVIDIA's driver, which is loaded when somebody first asks for it: one build serves machines
// with and without it. This is the only place that knows CUDA; above it an address of a GPU is a number that no host
// code reads or writes through.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/fork.h"
#include "base/result.h"
#include "client/cuda_functions.h"

namespace cairn {

inline constexpr int kHostMemory = -1;  // in place of the number of a GPU
inline constexpr int kAnyGpu = -2;      // whichever the memory is on
inline constexpr int kGpusMost = 64;
static_assert(kHostMemory < 0 && kAnyGpu < 0, "a GPU has a number of those");

// A piece of a copy between host memory and a GPU's.
struct GpuPiece {
  std::byte* host = nullptr;
  uint64_t address = 0;
  uint64_t bytes = 0;
};

// A stretch of a GPU's memory as the kernel hands it from driver to driver. Owned: closed when destroyed. Who imported
// it has a reference of its own.
class DmaBuf {
 public:
  DmaBuf(int descriptor, uint64_t offset) : descriptor_(descriptor), offset_(offset) {
    CAIRN_CHECK(descriptor >= 0, "a dma-buf without a descriptor");
  }
  ~DmaBuf();
  DmaBuf(DmaBuf&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)), offset_(other.offset_) {}
  DmaBuf& operator=(DmaBuf&&) = delete;
  int descriptor() const { return descriptor_; }
  uint64_t offset() const { return offset_; }  // where in it the memory that was asked for begins

 private:
  int descriptor_;
  uint64_t offset_;
};

// The driver of this process. Any thread may call anything. A call makes the primary context of its GPU current (the
// one that the CUDA runtime and PyTorch use) and puts back what was current before; contexts and streams are kept until
// the process ends. Copies go over a stream of ours that waits for no other: work of the caller's streams that is to
// come before a copy has to be done when the copy is asked for.
class Gpu {
 public:
  // Loads the driver. After an Error, which says what is missing and what to do, it may be asked again.
  static Result<Gpu*> load();
  // The driver if load() has succeeded before, else nullptr.
  static Gpu* loaded();

  int count() const { return count_; }
  int version() const { return version_; }  // 13000: 13.0

  // The GPU on which [address, address + bytes) lies. `wanted`: the one on which it should, or kAnyGpu. An Error, with
  // what is wrong, when any of it is no memory of a GPU, or lies on another.
  Result<int> find(uint64_t address, uint64_t bytes, int wanted);
  // kHostMemory for memory that the driver does not know as a GPU's. Never an Error.
  int owner_of(uint64_t address);

  // Returns when the bytes are there, or false and the reason in `error`: then they are undefined.
  bool copy_to_host(int gpu, std::span<const GpuPiece> pieces, std::string& error);
  bool copy_to_device(int gpu, std::span<const GpuPiece> pieces, std::string& error);

  // Makes copies from and to the host memory faster; it stays pinned until unpin(). Without, they still work.
  Result<Unit> pin(ByteSpan host);
  void unpin(ByteSpan host);

  // The memory as a dma-buf, which a network card can be given. The Error says why there is none: it is not the
  // caller's fault, and copies work all the same.
  Result<DmaBuf> export_dma_buf(int gpu, uint64_t address, uint64_t bytes);
  // Whether what a network card wrote is seen by the GPU afterwards, if settle_remote_writes() is called in between.
  Result<Unit> can_settle_remote_writes(int gpu);
  bool settle_remote_writes(int gpu, std::string& error);

  // Returns when everything that was given to the stream is done. `stream`: as in __cuda_array_interface__.
  Result<Unit> wait_for_stream(int gpu, uint64_t stream);

 private:
  struct Card {
    cuda::Context context = nullptr;
    cuda::Stream stream = nullptr;
    bool ordered = false;  // sees remote writes in order by itself
  };
  class Current;

  Gpu() = default;
  Result<Unit> start();
  Result<const Card*> card(int gpu);
  std::string text_of(cuda::Code code) const;
  Error failed(const std::string& what, cuda::Code code) const;
  template <class Enqueue>
  bool copy(int gpu, std::span<const GpuPiece> pieces, std::string& error, Enqueue enqueue);

  const uint64_t generation_ = fork_generation();
  cuda::Functions call_;
  int count_ = 0;
  int version_ = 0;
  std::mutex lock_;  // of cards_ while one is opened
  std::array<Card, kGpusMost> cards_{};
};

}  // namespace cairn
