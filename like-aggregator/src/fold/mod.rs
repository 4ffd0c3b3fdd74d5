//! The fold, without I/O: records in, changes per product out.

mod batch;
#[expect(clippy::module_inception, reason = "the fold itself, beside the batch that it folds")]
mod fold;

pub use batch::{Batch, DEAD_LETTER_BYTES, DEAD_LETTERS_BYTES, DeadLetter, Millis, Misplaced, Record, Span};
pub use fold::{Changes, Dedup, Desired, FOLD_VERSION, Fold, HourSum, ProductSum};
