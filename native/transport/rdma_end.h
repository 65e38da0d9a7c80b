// What both ends of a link over RDMA share: frames in messages, credit, and one line of work for the queue pair.
//
// Work goes to the device in the order in which it was asked for, but for reads: they wait for the few that the peer
// serves at once, and everything else passes them. A frame is therefore behind every write that was asked for before
// it, and what the peer sees of it says that those bytes are in place: the device completes a receive only after the
// writes before it, in whatever order their packets came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "transport/rdma_queue.h"
#include "transport/transport.h"
#include "wire/rdma.h"

namespace cairn {

struct EndSizes {
  uint16_t own_credits = 0;         // that this side gives
  uint16_t peer_credits = 0;        // … and that it has
  uint32_t peer_message_bytes = 0;  // the longest message that the peer takes
  uint32_t reads = 1;               // that the peer serves at once
};

class RdmaEnd {
 public:
  RdmaEnd(const RdmaEnd&) = delete;
  RdmaEnd& operator=(const RdmaEnd&) = delete;

  // A completion of this queue pair that is not a receive.
  void completed(const ibv_wc& completion);
  // A message, in memory that is the caller's again afterwards.
  void received(ConstByteSpan message);
  void receive_failed(ibv_wc_status status);
  // Posts what fits.
  void pump();
  rdma_cm_id* connection() const { return queue_->id(); }
  void lost(Status status, std::string_view reason) { fail(status, reason); }

 protected:
  RdmaEnd(std::unique_ptr<RdmaQueue> queue, SendChain& chain, MessagePool& pool, EndSizes sizes);
  virtual ~RdmaEnd();

  struct FrameOptions {
    uint32_t invalidate = 0;  // a window of the peer that ends with this frame
    bool has_invalidate = false;
    bool behind_reads = false;  // not before all reads that were posted are done
  };
  void queue_frame(std::vector<std::byte> frame, FrameOptions options);
  // `bytes` of `from`, beginning at `offset`, to the peer's memory.
  void queue_write(Buffer from, uint64_t offset, uint64_t bytes, std::span<const ExtentBody> to);
  void queue_read(PullOp& op);
  // Every op that is not done, and none of them is told any more.
  std::vector<PullOp*> take_reads();
  // The op is not told any more. Whether the device may still write its memory: then a share of it is kept.
  void cancel_read(const PullOp& op);
  // A request of the derived class, in line with the frames; its work comes back by work_done().
  struct Extra {
    ibv_send_wr request{};
    Work work;
  };
  void queue_extra(const Extra& extra);

  virtual uint32_t local_key() const = 0;  // of the memory of transfers
  virtual void frame_arrived(const FrameHeader& header, ConstByteSpan body) = 0;
  virtual void work_done(const Work& work) = 0;  // not of messages
  // Once: the link is broken.
  virtual void failed(Status status, std::string_view reason) = 0;
  // The peer broke a rule. Either fail()s or stop_hearing()s before it returns.
  virtual void broke_rule(Status status, std::string_view reason) { fail(status, reason); }

  void fail(Status status, std::string_view reason);
  bool open() const { return open_; }
  // From now on nothing of what comes counts but the credit that lets the line go on. When that is empty and done, the
  // link fails.
  void stop_hearing();
  bool hears() const { return open_ && hears_; }
  // While it is held no message is looked at but for the credit that it brings; those with pieces of frames are kept,
  // and their own credit with them, so that the peer sends no more than it had.
  void hold_input(bool held) { held_ = held && hears_; }
  bool input_held() const { return held_; }
  // What was kept is taken in, as far as it is not held again.
  void take_kept();
  // What frames in the line take of memory.
  uint64_t queued() const { return queued_; }
  // What left the line, and what came.
  uint64_t sent() const { return sent_; }
  uint64_t received_bytes() const { return received_; }
  bool leaving() const { return open_ && !hears_; }
  RdmaQueue& queue() { return *queue_; }
  // Nobody is called any more; what is on its way goes on in the queue.
  std::unique_ptr<RdmaQueue> take_queue();
  bool work_pending() const { return open_ && (!line_.empty() || !reads_.empty() || !queue_->idle()); }
  bool mid_frame() const { return assembly_.mid_frame(); }
  uint64_t moved() const { return moved_; }
  uint32_t reads_orphaned() const { return orphans_; }

 private:
  struct Transfer {
    Buffer memory;
    std::vector<iovec> local;
    std::vector<ExtentBody> remote;
    uint64_t bytes = 0, left = 0;
    PullOp* op = nullptr;
    size_t local_at = 0, remote_at = 0;
    uint64_t local_done = 0, remote_done = 0;  // of the piece at which it is
  };
  struct Job {
    enum class Kind : uint8_t { frame, write, extra } kind = Kind::frame;
    std::vector<std::byte> frame;
    size_t sent = 0;
    FrameOptions options;
    Transfer write;
    Extra extra;
  };
  static Transfer transfer_of(const Buffer& memory, uint64_t offset, uint64_t bytes,
                              std::span<const ExtentBody> remote);
  bool chain_ready();
  bool advance(Job& job);
  bool send_message(Job& job);
  bool send_credit();
  // One request of a transfer; returns whether the transfer is complete.
  bool transfer_piece(Transfer& transfer, WorkKind kind);
  uint32_t fill_message(uint32_t slot, std::span<const std::byte> piece, uint16_t flags);
  void finish_work(const Work& work);
  void hear_credit(ConstByteSpan message);
  void take_message(ConstByteSpan message);

  std::unique_ptr<RdmaQueue> queue_;
  SendChain& chain_;
  MessagePool& pool_;
  EndSizes sizes_;
  bool open_ = true;
  bool hears_ = true;
  uint32_t credits_;         // messages that the peer has room for
  uint32_t unreturned_ = 0;  // messages taken in and not yet credited to the peer
  std::deque<Job> line_;
  std::deque<Transfer> reads_;
  uint32_t reads_out_ = 0;  // posted and not done
  uint32_t orphans_ = 0;    // … whose op is gone
  FrameAssembly assembly_;
  uint64_t moved_ = 0, sent_ = 0, received_ = 0, queued_ = 0;
  bool held_ = false;
  std::deque<std::vector<std::byte>> kept_;  // messages that came while it was held
};

}  // namespace cairn
