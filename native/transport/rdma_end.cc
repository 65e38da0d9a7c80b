#include "transport/rdma_end.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cairn {

namespace {

// What keeping a frame costs besides its bytes, more or less.
constexpr uint64_t kFrameKeptBytes = 512;

}  // namespace

RdmaEnd::RdmaEnd(std::unique_ptr<RdmaQueue> queue, SendChain& chain, MessagePool& pool, EndSizes sizes)
    : queue_(std::move(queue)), chain_(chain), pool_(pool), sizes_(sizes), credits_(sizes.peer_credits) {
  CAIRN_CHECK(queue_ != nullptr, "a link without a queue pair");
  CAIRN_CHECK(sizes.peer_message_bytes >= kRdmaMessageBytesLeast, "a peer that takes no messages got past the decoder");
}

RdmaEnd::~RdmaEnd() = default;

std::unique_ptr<RdmaQueue> RdmaEnd::take_queue() {
  open_ = false;
  line_.clear();
  queued_ = 0;
  kept_.clear();
  reads_.clear();
  return std::move(queue_);
}

void RdmaEnd::fail(Status status, std::string_view reason) {
  if (!open_) return;
  open_ = false;
  line_.clear();
  queued_ = 0;
  kept_.clear();
  failed(status, reason);
}

void RdmaEnd::stop_hearing() {
  CAIRN_CHECK(hears_, "a peer that is not heard is stopped from being heard");
  hears_ = held_ = false;  // the frame that was taken in last may still be looked at
  kept_.clear();
  credits_ = std::min<uint32_t>(credits_, sizes_.peer_credits);
}

// --- what is asked for -----------------------------------------------------------------------------------

void RdmaEnd::queue_frame(std::vector<std::byte> frame, FrameOptions options) {
  if (!open_) return;
  CAIRN_CHECK(frame.size() >= kFrameHeaderBytes, "a frame without its header is sent");
  Job job;
  job.frame = std::move(frame);
  job.options = options;
  queued_ += job.frame.size() + kFrameKeptBytes;
  line_.push_back(std::move(job));
}

RdmaEnd::Transfer RdmaEnd::transfer_of(const Buffer& memory, uint64_t offset, uint64_t bytes,
                                       std::span<const ExtentBody> remote) {
  CAIRN_CHECK(bytes > 0, "nothing is transferred");
  CAIRN_CHECK(!remote.empty(), "a transfer with no memory of the peer");
  Transfer transfer;
  transfer.memory = memory;
  memory.slice(offset, bytes, transfer.local);
  transfer.remote.assign(remote.begin(), remote.end());
  std::erase_if(transfer.remote, [](const ExtentBody& extent) { return extent.length == 0; });
  transfer.bytes = transfer.left = bytes;
  return transfer;
}

void RdmaEnd::queue_write(Buffer from, uint64_t offset, uint64_t bytes, std::span<const ExtentBody> to) {
  if (!open_) return;
  Job job;
  job.kind = Job::Kind::write;
  job.write = transfer_of(from, offset, bytes, to);
  line_.push_back(std::move(job));
}

void RdmaEnd::queue_read(PullOp& op) {
  CAIRN_CHECK(open_, "a broken link is to read");
  Transfer read = transfer_of(op.buffer, 0, op.length, op.from);
  read.op = &op;
  reads_.push_back(std::move(read));
}

void RdmaEnd::queue_extra(const Extra& extra) {
  if (!open_) return;
  Job job;
  job.kind = Job::Kind::extra;
  job.extra = extra;
  line_.push_back(std::move(job));
}

void RdmaEnd::cancel_read(const PullOp& op) {
  std::erase_if(reads_, [&](const Transfer& read) { return read.op == &op; });
  if (queue_ == nullptr) return;
  queue_->for_each_open([&](Work& work) {
    if (work.kind != WorkKind::read || work.op != &op) return;
    work.op = nullptr;
    ++orphans_;
  });
}

std::vector<PullOp*> RdmaEnd::take_reads() {
  std::vector<PullOp*> ops;
  const auto add = [&](PullOp* op) {
    if (op != nullptr && std::find(ops.begin(), ops.end(), op) == ops.end()) ops.push_back(op);
  };
  queue_->for_each_open([&](Work& work) {
    if (work.op != nullptr) ++orphans_;
    add(std::exchange(work.op, nullptr));
  });
  for (const Transfer& read : reads_) add(read.op);
  reads_.clear();
  return ops;
}

// --- posting ---------------------------------------------------------------------------------------------

// Room for one more request in the chain and the queue.
bool RdmaEnd::chain_ready() {
  if (queue_->room() == 0) return false;
  if (!chain_.full()) return true;
  if (queue_->post(chain_)) return true;
  fail(Status::disconnected, "the device takes no more work");
  return false;
}

void RdmaEnd::pump() {
  if (!open_) return;
  CAIRN_CHECK(chain_.empty(), "another link left work in the chain");
  CAIRN_CHECK(reads_out_ <= sizes_.reads, "more reads are on their way than the peer serves");
  while (open_ && !line_.empty() && advance(line_.front())) {
    const Job& done = line_.front();
    if (done.kind == Job::Kind::frame) queued_ -= done.frame.size() + kFrameKeptBytes;
    line_.pop_front();
  }
  while (open_ && !reads_.empty() && reads_out_ < sizes_.reads && chain_ready()) {
    if (transfer_piece(reads_.front(), WorkKind::read)) reads_.pop_front();
  }
  if (open_ && hears_ && unreturned_ * 2 >= sizes_.own_credits) send_credit();
  if (!queue_->post(chain_)) fail(Status::disconnected, "the device takes no more work");
  if (!hears_ && line_.empty() && queue_->idle()) fail(Status::disconnected, "the peer was told why it was refused");
}

// Whether the job is done with.
bool RdmaEnd::advance(Job& job) {
  while (chain_ready()) {
    switch (job.kind) {
      case Job::Kind::frame:
        if (!send_message(job)) return false;
        if (job.sent == job.frame.size()) return true;
        break;
      case Job::Kind::write:
        if (transfer_piece(job.write, WorkKind::write)) return true;
        break;
      case Job::Kind::extra: {
        ibv_send_wr& request = queue_->begin(chain_, job.extra.work);
        const uint64_t id = request.wr_id;
        ibv_send_wr* const next = request.next;
        ibv_sge* const list = request.sg_list;
        request = job.extra.request;
        request.wr_id = id;
        request.next = next;
        request.sg_list = list;
        return true;
      }
    }
  }
  return false;
}

uint32_t RdmaEnd::fill_message(uint32_t slot, std::span<const std::byte> piece, uint16_t flags) {
  CAIRN_CHECK(unreturned_ <= UINT16_MAX, "more credit is returned than a message can say");
  CAIRN_CHECK(sizeof(MessagePrefix) + piece.size() <= pool_.slot_bytes(), "a message is longer than its memory");
  MessagePrefix prefix;
  prefix.bytes = static_cast<uint32_t>(piece.size());
  prefix.credits = static_cast<uint16_t>(unreturned_);
  prefix.flags = flags;
  unreturned_ = 0;
  store_bytes(pool_.at(slot), prefix);
  if (!piece.empty()) std::memcpy(pool_.at(slot) + sizeof(prefix), piece.data(), piece.size());
  return static_cast<uint32_t>(sizeof(prefix) + piece.size());
}

bool RdmaEnd::send_message(Job& job) {
  CAIRN_CHECK(job.sent < job.frame.size(), "a frame that was sent is sent again");
  if (credits_ == 0) return false;
  const uint32_t slot = pool_.take();
  if (slot == MessagePool::kNone) return false;  // tried again when something is done
  const size_t most = std::min<size_t>(sizes_.peer_message_bytes, pool_.slot_bytes()) - sizeof(MessagePrefix);
  const std::span<const std::byte> rest = std::span(job.frame).subspan(job.sent);
  const auto piece = rest.first(std::min(rest.size(), most));
  const bool last = piece.size() == rest.size();
  const auto flags = static_cast<uint16_t>((job.sent == 0 ? kMessageFirst : 0) | (last ? kMessageLast : 0));
  const uint32_t bytes = fill_message(slot, piece, flags);
  --credits_;
  sent_ += bytes;
  ibv_send_wr& request = queue_->begin(chain_, Work{WorkKind::message, true, slot, bytes, nullptr, &pool_, {}});
  request.opcode = IBV_WR_SEND;
  if (last && job.options.has_invalidate) {
    request.opcode = IBV_WR_SEND_WITH_INV;
    request.invalidate_rkey = job.options.invalidate;
  }
  if (job.options.behind_reads) request.send_flags |= IBV_SEND_FENCE;
  if (bytes <= queue_->sizes().inline_bytes) request.send_flags |= IBV_SEND_INLINE;
  RdmaQueue::add_sge(chain_) = {reinterpret_cast<uint64_t>(pool_.at(slot)), bytes, pool_.key_of(slot)};
  job.sent += piece.size();
  return true;
}

bool RdmaEnd::send_credit() {
  if (!chain_ready()) return false;
  const uint32_t slot = pool_.take();
  if (slot == MessagePool::kNone) return false;
  const uint32_t bytes = fill_message(slot, {}, 0);
  ibv_send_wr& request = queue_->begin(chain_, Work{WorkKind::message, true, slot, bytes, nullptr, &pool_, {}});
  request.opcode = IBV_WR_SEND;
  if (bytes <= queue_->sizes().inline_bytes) request.send_flags |= IBV_SEND_INLINE;
  RdmaQueue::add_sge(chain_) = {reinterpret_cast<uint64_t>(pool_.at(slot)), bytes, pool_.key_of(slot)};
  return true;
}

bool RdmaEnd::transfer_piece(Transfer& transfer, WorkKind kind) {
  CAIRN_CHECK(transfer.remote_at < transfer.remote.size(), "a transfer is longer than the peer's memory");
  CAIRN_CHECK(transfer.left > 0, "a transfer goes on that is complete");
  const ExtentBody& remote = transfer.remote[transfer.remote_at];
  ibv_send_wr& request = queue_->begin(chain_, Work{kind, false, 0, 0, transfer.op, nullptr, transfer.memory});
  request.opcode = kind == WorkKind::write ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
  request.wr.rdma.remote_addr = remote.address + transfer.remote_done;
  request.wr.rdma.rkey = remote.region;
  uint64_t room = std::min(remote.length - transfer.remote_done, transfer.left);
  while (room > 0 && RdmaQueue::sges_of(chain_) < queue_->sizes().sges) {
    CAIRN_CHECK(transfer.local_at < transfer.local.size(), "a transfer is longer than our memory");
    const iovec& local = transfer.local[transfer.local_at];
    const uint64_t part = std::min(room, local.iov_len - transfer.local_done);
    RdmaQueue::add_sge(chain_) = {reinterpret_cast<uint64_t>(local.iov_base) + transfer.local_done,
                                  static_cast<uint32_t>(part), local_key()};
    room -= part;
    transfer.left -= part;
    transfer.remote_done += part;
    transfer.local_done += part;
    if (transfer.local_done == local.iov_len) {
      ++transfer.local_at;
      transfer.local_done = 0;
    }
  }
  if (transfer.remote_done == remote.length) {
    ++transfer.remote_at;
    transfer.remote_done = 0;
  }
  if (kind == WorkKind::read) {
    ++reads_out_;
    request.send_flags |= IBV_SEND_SIGNALED;  // the next one waits for it
  }
  if (transfer.left > 0) return false;
  Work& work = queue_->newest();
  work.last = true;
  work.bytes = transfer.bytes;
  return true;
}

// --- what is done ----------------------------------------------------------------------------------------

void RdmaEnd::finish_work(const Work& work) {
  switch (work.kind) {
    case WorkKind::message:
      CAIRN_CHECK(work.pool != nullptr, "a message lies in nobody's memory");
      work.pool->give_back(work.slot);
      break;
    case WorkKind::read:
      CAIRN_CHECK(reads_out_ > 0, "more reads are done than were posted");
      --reads_out_;
      if (work.op == nullptr) {
        CAIRN_CHECK(orphans_ > 0, "more reads without an op are done than there were");
        --orphans_;
      }
      break;
    case WorkKind::write:
    case WorkKind::bind:
    case WorkKind::invalidate:
      break;
  }
  moved_ += work.bytes + 1;
  if (work.kind != WorkKind::message) sent_ += work.bytes + 1;
  if (work.kind != WorkKind::message) work_done(work);
}

void RdmaEnd::completed(const ibv_wc& completion) {
  if (!open_) return;  // the queue goes with what is in it
  if (completion.status != IBV_WC_SUCCESS) {
    switch (completion.status) {
      case IBV_WC_REM_ACCESS_ERR:
      case IBV_WC_REM_INV_REQ_ERR:
      case IBV_WC_MW_BIND_ERR:
        return fail(Status::bad_region, "the peer's memory is not where it said, or is open no more");
      case IBV_WC_RNR_RETRY_EXC_ERR:
        return fail(Status::invalid, "the peer has no receives for the messages that it gave credit for");
      case IBV_WC_RETRY_EXC_ERR:
        return fail(Status::disconnected, "the peer does not answer");
      default:
        return fail(Status::disconnected,
                    std::string("the connection broke: ") + queue_->status_text(completion.status));
    }
  }
  if (!queue_->is_open(completion.wr_id))
    return fail(Status::disconnected, "the device completes work that it was not given");
  Work work;
  while (open_ && queue_->next_done(completion.wr_id, work)) finish_work(work);
}

void RdmaEnd::receive_failed(ibv_wc_status status) {
  if (!open_ || status == IBV_WC_WR_FLUSH_ERR) return;  // the work that was flushed with it tells
  fail(Status::disconnected, std::string("a message could not be received: ") + queue_->status_text(status));
}

// The length of a message was not checked, and it may say anything.
void RdmaEnd::hear_credit(ConstByteSpan message) {
  CAIRN_CHECK(!hears_, "a message of a peer that is heard is not looked at");
  if (message.size() < sizeof(MessagePrefix)) return;
  credits_ = std::min<uint32_t>(credits_ + load<MessagePrefix>(message.data()).credits, sizes_.peer_credits);
}

void RdmaEnd::received(ConstByteSpan message) {
  if (!open_) return;
  if (!hears_) return hear_credit(message);
  moved_ += message.size();
  received_ += message.size();
  if (!held_ && kept_.empty()) return take_message(message);
  MessagePrefix prefix;
  if (message.size() >= sizeof(prefix)) {
    prefix = load<MessagePrefix>(message.data());
    // Its credit is taken at once: what waits to be sent may wait for it, and this link for that.
    credits_ += prefix.credits;
    if (credits_ > sizes_.peer_credits) return broke_rule(Status::invalid, "more credit comes back than was used");
    prefix.credits = 0;
    if (prefix.flags == 0 && prefix.bytes == 0 && message.size() == sizeof(prefix)) return;
  }
  if (kept_.size() >= sizes_.own_credits) return broke_rule(Status::invalid, "more messages than there was credit for");
  std::vector<std::byte>& kept = kept_.emplace_back(message.begin(), message.end());
  if (kept.size() >= sizeof(prefix)) store_bytes(kept.data(), prefix);
}

void RdmaEnd::take_kept() {
  while (open_ && hears_ && !held_ && !kept_.empty()) {
    const std::vector<std::byte> message = std::move(kept_.front());
    kept_.pop_front();
    take_message(message);
  }
}

void RdmaEnd::take_message(ConstByteSpan message) {
  bool ended = false;
  Status status = Status::invalid;
  if (const char* wrong = assembly_.take(message, ended, status)) return broke_rule(status, wrong);
  credits_ += assembly_.credits();
  if (credits_ > sizes_.peer_credits) return broke_rule(Status::invalid, "more credit comes back than was used");
  if (assembly_.carries_frame() && ++unreturned_ > sizes_.own_credits)
    return broke_rule(Status::invalid, "more messages than there was credit for");
  if (ended) frame_arrived(assembly_.header(), assembly_.body());
}

}  // namespace cairn
