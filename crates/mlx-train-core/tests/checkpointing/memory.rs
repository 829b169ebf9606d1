//! How much memory the policies save, by MLX's own counter.

use super::models::{Deep, batch, policy};
use mlx_train_core::{
    Result,
    data::Batch,
    optim::AdamW,
    profile::Memory,
    train::{CompileMode, StepOptions, TrainStep},
};
use std::{env, process::Command};

/// What the second step of a deep model holds at its most, besides weights, state and data.
fn activations_peak(text: &str, batch: &Batch) -> Result<u64> {
    let mut model = Deep::new(16)?;
    let options = StepOptions {
        compile: CompileMode::Off,
        gradient_checkpointing: policy(text),
        ..StepOptions::default()
    };
    let mut step = TrainStep::new(&mut model, AdamW::default(), 0, options)?;
    let mut peak = 0;
    for _ in 0..2 {
        let held = Memory::now()?.active_bytes;
        Memory::reset_peak()?;
        step.run([Ok(batch.clone())], 0.01)?;
        peak = Memory::now()?.peak_bytes - held;
    }
    Ok(peak)
}

#[test]
fn full_takes_a_quarter_of_the_activations_and_the_other_policies_lie_in_between() -> Result<()> {
    // Memory is counted for the whole process, so this runs in a process of its own.
    if env::var_os("MEMORY_ALONE").is_none() {
        let name =
            "memory::full_takes_a_quarter_of_the_activations_and_the_other_policies_lie_in_between";
        let test = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            // Threads of OpenBLAS that wait for a busy core would take a minute.
            .envs([("MEMORY_ALONE", "1"), ("OPENBLAS_NUM_THREADS", "1")])
            .output()
            .unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return Ok(());
    }
    // The weights of a block have 5 KiB, its input has 128.
    let batch = batch(4096, 0)?;
    // From most to least. Measured, as shares of `none`: 0.76, 0.59, 0.54, 0.27 and 0.20.
    let texts =
        ["none", "selective=[mix]", "every=2", "selective=[mlp]", "selective=[mix,mlp]", "full"];
    let peaks = texts.map(|text| activations_peak(text, &batch).unwrap());
    assert!(peaks.windows(2).all(|pair| pair[1] * 100 < pair[0] * 95), "{texts:?} {peaks:?}");
    assert!(peaks[5] * 4 < peaks[0], "{peaks:?}");
    Ok(())
}
