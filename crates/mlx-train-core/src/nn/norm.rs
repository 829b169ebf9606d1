//! mlx-rs's norms beside layers that are split: they divide by a mean over all features.

use super::{LayerNorm, RmsNorm};
use crate::distributed::{Sharding, SplitBy, way::Alternating};

impl SplitBy<Alternating> for RmsNorm {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.needs_whole();
    }
}

impl SplitBy<Alternating> for LayerNorm {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.needs_whole();
    }
}
