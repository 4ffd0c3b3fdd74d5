//! Fencing, rebalances and the swap of `rebuild` as a state model, every state of which is visited: what two workers, a
//! rebuild, a PostgreSQL, a group and some faults can come to, in whatever order their steps happen. The fault tests try
//! some orders on the real thing; this tries all of them on a small picture of it.
//!
//! Nothing but tests. The modules are named after what they stand for, and each step names the code that takes it: who
//! changes that code looks here whether the picture still is one. What it leaves out is in docs/adr/0013-state-model.md.

#[cfg(test)]
mod batch;
#[cfg(test)]
mod consumer;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod model;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod rebuild;
#[cfg(test)]
mod state;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tests;
