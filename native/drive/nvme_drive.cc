#include "drive/nvme_drive.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/slab.h"
#include "drive/claim.h"
#include "drive/nvme_sysfs.h"

namespace cairn {

namespace {

constexpr uint32_t kTriesMost = 3;               // of a command that was aborted, or came at a bad moment
constexpr uint64_t kPageBytes = 4096;            // of the drive: where the memory of one command may be in pieces
constexpr uint64_t kUnknownBytesMost = 131'072;  // of one command, where the kernel does not say: every driver takes it
constexpr uint64_t kUnknownSegmentsMost = 32;
constexpr uint64_t kBufferBytesMost = uint64_t{1} << 30;  // of one registered buffer, as io_uring has it
constexpr uint64_t kBuffersMost = 16'384;                 // … and so many
constexpr int kTrialMs = 1000;
constexpr size_t kSqeBytes = 128;
static_assert(offsetof(io_uring_sqe, cmd) + sizeof(nvme_uring_cmd) <= kSqeBytes, "a command does not fit its entry");
static_assert(kSlabPageBytes % kPageBytes == 0, "a page of the slab is not whole pages of the drive");

using Memory = std::unique_ptr<std::byte, void (*)(void*)>;

Memory pages(uint64_t bytes) {
  return {static_cast<std::byte*>(std::aligned_alloc(kPageBytes, round_up(bytes, kPageBytes))), &std::free};
}

struct TrialRead final : public IoRequest {
  TrialRead(std::byte* memory, uint64_t length) : part{memory, length} {
    vectors = &part;
    vector_count = 1;
    bytes = length;
  }
  void completed(int code) override { error = code; }
  iovec part;
  int error = 0;
};

PieceLimits limits_of(const NvmeFacts& facts, const NvmeNode& node) {
  PieceLimits limits;
  const uint64_t lba_bytes = facts.space.lba_bytes;
  limits.bytes_most = std::min({facts.controller.transfer_bytes_most, kNvmeBlocksMost * lba_bytes,
                                node.bytes_most > 0 ? node.bytes_most : kUnknownBytesMost});
  limits.discard_bytes_most = kDeallocateRangesMost * kDeallocateBlocksMost * lba_bytes;
  limits.pages_most = node.segments_most > 0 ? node.segments_most : kUnknownSegmentsMost;
  limits.page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  limits.join_bytes = kPageBytes;
  return limits;
}

DriveInfo info_of(const NvmeFacts& facts, const std::string& path, const DriveOptions& options) {
  DriveInfo info;
  info.path = path;
  info.kind = "nvme";
  info.bytes = round_down(facts.space.blocks * facts.space.lba_bytes, kSlabPageBytes);
  info.lba_bytes = facts.space.lba_bytes;
  info.volatile_write_cache = facts.cache_on;
  info.read_only = options.read_only;
  info.can_discard = facts.controller.deallocates;
  info.placement_classes = std::max<uint32_t>(1, static_cast<uint32_t>(facts.placement_ids.size()));
  return info;
}

// A service that names the block device locks that, so it is locked here as well, and before it is asked for O_EXCL:
// then the error tells of the service, and not of a mount that there is not.
Result<Unit> claim_block_device(const std::string& path, const DriveOptions& options, NvmeDrive::Claims& claims) {
  auto locked = open_path(path, 0, options);
  if (!locked) return locked.error();
  if (auto mine = lock(locked.value(), path, options); !mine) return mine.error();
  claims.block_lock = locked.take();
  if (options.read_only) return Unit{};
  auto used = open_path(path, O_EXCL, options);
  if (!used) return used.error();
  claims.block_use = used.take();
  return Unit{};
}

}  // namespace

Result<std::unique_ptr<Drive>> open_nvme_drive(const std::string& path, dev_t number, const DriveOptions& options) {
  auto node = find_nvme_node(path, number);
  if (!node) return node.error();
  auto device = open_path(path, 0, options);
  if (!device) return device.error();
  if (auto locked = lock(device.value(), path, options); !locked) return locked.error();
  auto asked = identify_nvme(device.value(), path);
  if (!asked) return asked.error();
  const NvmeFacts& facts = asked.value();
  find_block_device(node.value(), facts.namespace_id);
  NvmeDrive::Claims claims{.device = device.take(), .block_lock = {}, .block_use = {}};
  if (const std::string& block = node.value().block_path; !block.empty()) {
    if (auto claimed = claim_block_device(block, options, claims); !claimed) return claimed.error();
  }
  if (facts.space.write_protected && !options.read_only)
    return Error{EROFS, path + " is write protected: to look at it only, use a read-only command"};
  return NvmeDrive::create(info_of(facts, path, options), facts, limits_of(facts, node.value()), std::move(claims),
                           options);
}

NvmeDrive::NvmeDrive(DriveInfo info, const NvmeFacts& facts, const PieceLimits& limits, Claims claims,
                     const DriveOptions& options)
    : RingDrive(std::move(info), options, limits),
      namespace_id_(facts.namespace_id),
      placement_ids_(facts.placement_ids),
      command_bytes_most_(limits.bytes_most),
      command_pages_most_(limits.pages_most),
      claims_(std::move(claims)),
      ranges_(slots()) {
  CAIRN_CHECK(namespace_id_ > 0, "a drive is made of no namespace");
  CAIRN_CHECK(claims_.device.is_open(), "a drive is made of a device that is not open");
}

Result<std::unique_ptr<Drive>> NvmeDrive::create(DriveInfo info, const NvmeFacts& facts, const PieceLimits& limits,
                                                 Claims claims, const DriveOptions& options) {
  const std::string path = info.path;
  std::unique_ptr<NvmeDrive> drive(new NvmeDrive(std::move(info), facts, limits, std::move(claims), options));
  if (auto up = drive->set_up_ring(IORING_SETUP_SQE128 | IORING_SETUP_CQE32); !up) {
    if (up.error().system_errno != EINVAL) return up.error();
    return Error{EINVAL, "cannot pass commands to " + path +
                             ": the kernel is older than Linux 5.19; name the block device instead"};
  }
  // Asking a namespace what it is and reading it are permitted apart.
  const Memory memory = pages(facts.space.lba_bytes);
  if (memory == nullptr) return Error::from_errno(ENOMEM, "cannot read " + path);
  const int error = drive->try_read(memory.get());
  if (error == EACCES || error == EPERM) {
    return Error::from_errno(error, "cannot read " + path,
                             "; pass-through needs CAP_SYS_ADMIN before Linux 6.2: give it to the service, or name the "
                             "block device instead");
  }
  if (error == EOPNOTSUPP) {
    return Error::from_errno(error, "cannot pass commands to " + path,
                             "; the kernel is older than Linux 5.19: name the block device instead");
  }
  if (error != 0) return Error::from_errno(error, "cannot read " + path);
  return std::unique_ptr<Drive>(std::move(drive));
}

NvmeExtent NvmeDrive::extent_of(const Piece& piece) const {
  const uint32_t lba_bytes = info().lba_bytes;
  CAIRN_CHECK(piece.offset % lba_bytes == 0, "a command begins within a logical block");
  CAIRN_CHECK(piece.bytes % lba_bytes == 0, "a command ends within a logical block");
  return {namespace_id_, piece.offset / lba_bytes, piece.bytes / lba_bytes};
}

void NvmeDrive::prepare(io_uring_sqe* sqe, uint32_t slot, Piece& piece) {
  std::memset(static_cast<void*>(sqe), 0, kSqeBytes);
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = claims_.device.get();
  sqe->cmd_op = NVME_URING_CMD_IO;
  nvme_uring_cmd command{};
  if (piece.kind == IoKind::flush) {
    command = flush_command(namespace_id_);
  } else if (piece.kind == IoKind::discard) {
    ranges_[slot] = deallocate_ranges(extent_of(piece));
    command = deallocate_command(namespace_id_, ranges_[slot]);
  } else {
    command = transfer_command(piece.kind, extent_of(piece));
    if (piece.kind == IoKind::write && !placement_ids_.empty()) place(command, placement_ids_[piece.placement]);
    const int64_t buffer = info().fixed_buffers ? buffer_of(piece) : -1;
    if (piece.vectors.size() == 1) {
      command.addr = reinterpret_cast<uint64_t>(piece.vectors.front().iov_base);
      command.data_len = static_cast<uint32_t>(piece.bytes);
    } else {
      sqe->cmd_op = NVME_URING_CMD_IO_VEC;
      command.addr = reinterpret_cast<uint64_t>(piece.vectors.data());
      command.data_len = static_cast<uint32_t>(piece.vectors.size());
    }
    if (buffer >= 0) {
      sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
      sqe->buf_index = static_cast<uint16_t>(buffer);
    }
  }
  std::memcpy(reinterpret_cast<std::byte*>(sqe) + offsetof(io_uring_sqe, cmd), &command, sizeof(command));
}

RingDrive::Outcome NvmeDrive::outcome(const Piece& piece, int result) {
  if (result == 0) return {.moved = piece.bytes};
  // Not every kernel that registers memory takes all of it in commands: then it is done without from now on.
  if (result == -EINVAL && piece.tries == 1 && buffer_of(piece) >= 0) {
    set_fixed_buffers(false);
    return {.again = true};
  }
  const bool interrupted = result == -EAGAIN || result == -EINTR;
  if (piece.tries < kTriesMost && (interrupted || (result > 0 && nvme_may_retry(result)))) return {.again = true};
  if (interrupted) return {.error = EIO};
  return {.error = result < 0 ? -result : errno_of_nvme_status(result)};
}

int NvmeDrive::try_read(std::byte* memory) {
  TrialRead trial(memory, info().lba_bytes);
  submit(trial);
  while (in_flight() > 0) wait(kTrialMs);
  return trial.error;
}

int64_t NvmeDrive::buffer_of(const Piece& piece) const {
  if (registered_.empty() || piece.vectors.size() != 1) return -1;
  const auto* const from = static_cast<const std::byte*>(piece.vectors.front().iov_base);
  const std::byte* const end = registered_.data() + registered_.size();
  if (std::less<>{}(from, registered_.data()) || !std::less<>{}(from, end)) return -1;
  const auto offset = static_cast<uint64_t>(from - registered_.data());
  const uint64_t chunk = offset / chunk_bytes_;
  const uint64_t chunk_end = std::min<uint64_t>((chunk + 1) * chunk_bytes_, registered_.size());
  return offset + piece.bytes <= chunk_end ? static_cast<int64_t>(chunk) : -1;
}

void NvmeDrive::unregister() {
  (void)io_uring_unregister_buffers(ring());
  registered_ = {};
  set_fixed_buffers(false);
}

bool NvmeDrive::register_in_chunks(ByteSpan memory, uint64_t chunk_bytes) {
  std::vector<iovec> chunks;
  for (uint64_t at = 0; at < memory.size(); at += chunk_bytes)
    chunks.push_back({memory.data() + at, std::min<uint64_t>(chunk_bytes, memory.size() - at)});
  if (chunks.size() > kBuffersMost) return false;
  if (io_uring_register_buffers(ring(), chunks.data(), static_cast<unsigned>(chunks.size())) != 0) return false;
  registered_ = memory;
  chunk_bytes_ = chunk_bytes;
  set_fixed_buffers(true);
  return true;
}

// Kernels before 6.12 count all of a registered buffer that lies behind a command's memory as the command's, and refuse
// what is too much: there the buffers are no larger than a command. One read tells which kernel it is.
bool NvmeDrive::register_memory(ByteSpan memory) {
  CAIRN_CHECK(in_flight() == 0, "memory is registered while it may be in use");
  CAIRN_CHECK(registered_.empty(), "a drive is given memory twice");
  const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t trial_bytes = (command_pages_most_ + 1) * page_bytes;
  const Memory trial = pages(trial_bytes);
  if (trial == nullptr || !register_in_chunks({trial.get(), trial_bytes}, kBufferBytesMost)) return false;
  const bool large = try_read(trial.get()) == 0 && info().fixed_buffers;
  unregister();
  const uint64_t small = std::bit_floor(std::min(command_bytes_most_, command_pages_most_ * page_bytes));
  return register_in_chunks(memory, large ? kBufferBytesMost : small);
}

}  // namespace cairn
