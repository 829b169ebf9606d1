//! What a plan is told of the reference models, against arithmetic and the estimate of a whole step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_rs::{Dtype, module::ModuleParameters as _};
use mlx_train_core::{
    Result,
    bytes::Bytes,
    distributed::Backend,
    estimate::{Estimator, Machine, Rows},
    ffi::is_on_cpu,
    model::BaseModel,
    plan::{Cluster, Device, Link, Number, Parameter, Place, Workload, plan},
    registry::ModelRegistry,
    rng,
    train::{CompileMode, Precision, TrainConfig},
};
// Links the models.
use mlx_train_models as _;

/// The share that a prediction of memory may be off: blocks are extrapolated from four, and the queue of MLX, which
/// holds what has not run yet, is fuller with more.
const TOLERANCE: f64 = 0.15;

fn build(set: &[&str]) -> Result<Box<dyn BaseModel>> {
    rng::scope(&rng::key(0)?, || ModelRegistry::get_model("transformer")?.build(set))
}

fn workload(set: &[&str], seq_len: i32, config: &TrainConfig) -> Workload {
    Workload::of("transformer", || build(set), |_| Ok(Rows::tokens(seq_len)), config).unwrap()
}

#[test]
fn a_transformer_costs_what_its_sizes_say() {
    let set = ["vocab_size=512", "hidden_size=64", "num_layers=9", "num_heads=4", "dropout=0.0"];
    let config = TrainConfig { batch_size: 6, accumulation: 2, ..TrainConfig::default() };
    let workload = workload(&set, 32, &config);
    let whole: usize =
        build(&set).unwrap().parameters().flatten().values().map(|it| it.size()).sum();
    assert_eq!(workload.num_parameters(), whole as u64);
    assert_eq!((workload.num_blocks, workload.rows, workload.tokens_per_row), (9, 12, 32));
    assert_eq!(workload.number, Number::F32);

    let places: Vec<(&str, Place)> =
        workload.parameters.iter().map(|it| (it.name.as_str(), it.place)).collect();
    assert!(places.contains(&("model.embed_tokens.weight", Place::Before)), "{places:?}");
    assert!(places.contains(&("model.layers.*.mlp.up_proj.weight", Place::Block)), "{places:?}");
    assert!(places.contains(&("model.norm.weight", Place::After)), "{places:?}");
    assert!(places.contains(&("lm_head.weight", Place::After)), "{places:?}");

    // Forward and twice backward, two operations for each number and token; attention of 32 tokens to 32.
    let in_block: u64 = workload
        .parameters
        .iter()
        .filter(|it| it.place == Place::Block && it.shape.len() == 2)
        .map(Parameter::size)
        .sum();
    let block =
        3.0 * 32.0 * (2.0 * in_block as f64 + 4.0 * 64.0 * 32.0) + row_sums(4.0 * 32.0 * 32.0);
    let [none, full] = [0, 1].map(|index| &workload.policies[index]);
    assert_eq!(none.policy.to_string(), "none");
    assert!((none.row.flops / block - 1.0).abs() < 1e-6, "{} {block}", none.row.flops);
    // The forward pass once more, but for what the gradient does without: the last product of a block.
    assert_eq!(full.policy.to_string(), "full");
    let again = full.row.flops / none.row.flops;
    assert!(again > 1.2 && again < 1.334, "{again}");
    // A checkpointed block keeps what comes into it: 32 tokens of 64 f32 numbers.
    assert!((workload.boundary_bytes / (32.0 * 64.0 * 4.0) - 1.0).abs() < 0.01);
    // Two moments in f32, for each number a gradient.
    assert!(
        (workload.optimizer_bytes - 8.0).abs() < 0.01
            && (workload.gradient_bytes - 4.0).abs() < 0.01
    );
}

/// The operations that adding up so many exponentials counts for: an x86-64 CPU does so by products with ones.
fn row_sums(count: f64) -> f64 {
    let by_products = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    if by_products && is_on_cpu().unwrap() { 2.0 * count } else { 0.0 }
}

#[test]
fn the_memory_of_one_device_is_that_of_the_estimate() -> Result<()> {
    let small = ["vocab_size=2048", "hidden_size=128", "num_layers=6", "num_heads=4"];
    let wide = ["vocab_size=32000", "hidden_size=768", "num_layers=6", "num_heads=12"];
    let tied = [
        "vocab_size=8192",
        "hidden_size=128",
        "num_layers=2",
        "num_heads=4",
        "tie_word_embeddings=true",
    ];
    for (set, seq_len, batch_size, accumulation, precision) in [
        (&small[..], 256, 8, 1, Precision::F32),
        (&small[..], 128, 8, 3, Precision::F32),
        (&small[..], 256, 8, 1, Precision::Mixed),
        (&wide[..], 64, 1, 1, Precision::F32),
        (&tied[..], 128, 8, 1, Precision::F32),
    ] {
        let config = TrainConfig {
            batch_size,
            accumulation,
            precision,
            compile: CompileMode::Off,
            ..TrainConfig::default()
        };
        let device = Device { memory: Bytes(1 << 50), ..Device::default() };
        let cluster = Cluster::of(1, device, Link::default(), Backend::Ring);
        let workload = workload(set, seq_len, &config);
        let plan = plan(&workload, &cluster, None)?;
        let mut model = build(set)?;
        let mut estimator = Estimator::new(&mut model, Rows::tokens(seq_len), Machine::here()?);
        for candidate in plan.candidates.iter().filter(|it| it.micro_batches == accumulation) {
            let gradient_checkpointing = candidate.policy.clone();
            let config = TrainConfig { gradient_checkpointing, ..config.clone() };
            let estimated = estimator.estimate(&config)?.peak_bytes as f64;
            let ratio = candidate.memory.total() as f64 / estimated;
            assert!(
                (ratio - 1.0).abs() < TOLERANCE,
                "{set:?} {seq_len} {batch_size} {precision:?} {}: {ratio}",
                candidate.policy
            );
        }
    }
    Ok(())
}

#[test]
fn a_model_whose_layers_differ_counts_as_one_block() -> Result<()> {
    let set = ["input_size=64", "hidden_sizes=[32,16]", "output_size=4"];
    let build = || rng::scope(&rng::key(0)?, || ModelRegistry::get_model("mlp")?.build(set));
    let rows = Rows::new((&[64], Dtype::Float32), (&[], Dtype::Int32));
    let config = TrainConfig { batch_size: 128, ..TrainConfig::default() };
    let workload = Workload::of("mlp", build, |_| Ok(rows), &config)?;
    assert_eq!((workload.num_blocks, workload.tokens_per_row), (1, 1));
    assert_eq!(workload.num_parameters(), (65 * 32 + 33 * 16 + 17 * 4) as u64);
    // No gradient of the first layer's input is needed.
    let flops = 2.0 * f64::from(3 * (32 * 16 + 16 * 4) + 2 * 64 * 32) + row_sums(4.0);
    assert!((workload.policies[0].row.flops / flops - 1.0).abs() < 1e-6);
    let cluster = Cluster::of(
        2,
        Device { memory: Bytes(1 << 40), ..Device::default() },
        Link::default(),
        Backend::Ring,
    );
    let plan = plan(&workload, &cluster, None)?;
    assert!(plan.excluded.iter().any(|it| it.layout.pipeline == 2), "{:?}", plan.excluded);
    Ok(())
}

#[test]
fn four_hundred_billion_parameters_are_described_by_a_few_blocks() {
    let set = [
        "vocab_size=128256",
        "hidden_size=16384",
        "num_layers=126",
        "num_heads=128",
        "num_kv_heads=8",
        "intermediate_size=53248",
        "max_seq_len=8192",
        "dropout=0.0",
    ];
    let config = TrainConfig {
        batch_size: 1,
        accumulation: 64,
        precision: Precision::Mixed,
        ..TrainConfig::default()
    };
    let workload = workload(&set, 4096, &config);
    assert_eq!(workload.num_parameters(), 405_853_388_800);
    // What nobody has, so that it fits whatever the layers say of their split.
    let device = Device { memory: Bytes(1 << 40), ..Device::default() };
    let cluster = Cluster::of(1024, device, Link::default(), Backend::Mpi);
    let plan = plan(&workload, &cluster, None).unwrap();
    let chosen = plan.chosen().unwrap();
    assert!(chosen.fits() && chosen.memory.total() > 1 << 33, "{chosen:?}");
    assert!(plan.candidates.len() > 100, "{}", plan.candidates.len());
    // All devices hold the parameters once at least.
    let all = chosen.memory.weights_bytes * 1024;
    assert!(all > 4 * workload.num_parameters() * 9 / 10, "{chosen:?}");
}
