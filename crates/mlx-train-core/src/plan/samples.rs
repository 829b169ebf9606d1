//! A workload and devices of round numbers, for tests.

use super::{
    cluster::{Cluster, Device, Link, Number},
    work::Work,
    workload::{BlockCost, OutsideCost, Parameter, Place, TensorSplit, Workload},
};
use crate::{bytes::Bytes, checkpoint::CheckpointPolicy, distributed::Backend};

/// Four blocks of 2^20 numbers, and 2^20 numbers before and after them.
pub(super) fn workload() -> Workload {
    let parameter = |name: &str, place, tensor_axis| Parameter {
        name: name.into(),
        place,
        shape: vec![1024, 1024],
        item_bytes: 4,
        is_trained: true,
        tensor_axis,
    };
    let cost = |policy, flops, saved_bytes, rerun| BlockCost {
        policy,
        row: Work { flops, bytes: 1e6, operations: 0.0 },
        micro_batch: Work { flops: 0.0, bytes: 0.0, operations: 10.0 },
        saved_bytes,
        kept_bytes: 0.0,
        extra_bytes: 0.0,
        rerun,
        checkpointed: rerun,
    };
    let outside = |rows: usize| OutsideCost {
        rows,
        work: Work { flops: 6e9 * rows as f64, bytes: 1e6, operations: 10.0 },
        working_bytes: 4e6 * rows as f64,
    };
    Workload {
        model: "sample".into(),
        rows: 32,
        tokens_per_row: 128,
        number: Number::F32,
        num_blocks: 4,
        parameters: vec![
            parameter("embedding.weight", Place::Before, Some(0)),
            parameter("layers.*.weight", Place::Block, Some(0)),
            parameter("head.weight", Place::After, Some(0)),
        ],
        optimizer_bytes: 8.0,
        gradient_bytes: 4.0,
        travelling_bytes: 4.0,
        update: Work { flops: 0.0, bytes: 28.0, operations: 12.0 },
        update_bytes: 8.0,
        updated_together: 1e6,
        boundary_bytes: 5e5,
        batch_bytes: 1e3,
        policies: vec![
            cost(CheckpointPolicy::None, 6e9, 8e6, 0.0),
            cost(CheckpointPolicy::Full, 8e9, 5e5, 1.0),
        ],
        before: Work { flops: 0.0, bytes: 1e6, operations: 1.0 },
        outside: vec![outside(1), outside(32)],
        tensor: TensorSplit {
            max_ranks: 8,
            refusals: [3, 5, 6, 7].map(|ranks| (ranks, "8 heads".to_owned())).into(),
            sums: 2.0,
            flops: 1.0,
            bytes: 0.5,
            saved: 0.5,
            outside_flops: 1.0,
            outside_bytes: 0.5,
        },
        whole_matrices: None,
    }
}

pub(super) fn device(memory: u64) -> Device {
    Device {
        name: None,
        memory: Bytes(memory),
        f32_flops: 1e12,
        bf16_flops: 2e12,
        bytes_per_second: 1e11,
        seconds_per_operation: 1e-6,
    }
}

/// Equal devices on one host.
pub(super) fn cluster(devices: usize, memory: u64) -> Cluster {
    let link = Link { bytes_per_second: 1e10, latency_seconds: 1e-5 };
    Cluster::of(devices, device(memory), link, Backend::Mpi)
}
