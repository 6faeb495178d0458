//! Giving space back, decided without I/O: what of the log is kept, which extent is worth emptying, and what of it has to
//! move. DESIGN.md, "Reclaiming and growing"; chapter "Reclaiming" of `architecture.md` says where this differs.

pub mod census;
pub mod freed;
pub mod moves;
pub mod queue;
