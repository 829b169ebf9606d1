//! What every benchmark of mlx-train has, whichever program it is in: a way to time, and the line of JSON.

pub mod record;
pub mod timing;
