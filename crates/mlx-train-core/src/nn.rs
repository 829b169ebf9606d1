//! Layers that mlx-rs lacks or gets wrong for training.

/// Keys and values that attention layers have computed.
#[derive(Debug, Clone, Default)]
pub struct KvCache {}
