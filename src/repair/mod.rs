//! Healing: whatever a slot lacks is copied from its peers, frame by frame. PROTOCOL.md, "Repair".
//!
//! `frame` reads one frame on one slot and finds the groups in it that verify; `judge` compares what the slots have and
//! says what is to be copied where; `plan` says which frame is next, and when. The engine carries it out
//! (`volume::engine::heal`).

pub(crate) mod frame;
pub(crate) mod judge;
pub(crate) mod plan;
