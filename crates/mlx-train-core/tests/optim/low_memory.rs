//! Running means in half and in a quarter of the memory train as well as those in f32.

use super::{floats, named};
use mlx_rs::{Dtype, module::Module, ops::tanh, random};
use mlx_train_core::{
    Array, ModuleParameters, Result,
    data::Batch,
    ffi,
    loss::{self, CrossEntropy},
    model::{BaseModel, Loss},
    nn::Linear,
    optim::{AdamW, Lion, Optimizer, OptimizerState, Parameter, StateFormat, apply},
    rng,
    train::{CompileMode, Precision, StepOptions, TrainStep},
};

const FORMATS: [StateFormat; 3] = [StateFormat::F32, StateFormat::Bf16, StateFormat::Int8];

/// Two layers, of 4224 and 640 numbers: bytes hold the means of the first weight, and not of the other arrays.
#[derive(Debug, ModuleParameters)]
struct Classifier {
    #[param]
    first: Linear,
    #[param]
    second: Linear,
}

impl Classifier {
    fn new() -> Result<Self> {
        rng::scope(&rng::key(5)?, || {
            Ok(Self { first: Linear::new(66, 64)?, second: Linear::new(64, 10)? })
        })
    }
}

impl BaseModel for Classifier {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(self.second.forward(&tanh(self.first.forward(x)?)?)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        loss::cross_entropy(&self.forward(x)?, y, &CrossEntropy::default())
    }
}

/// Points around the centres of ten classes, some of whose coordinates are a thousand times smaller.
fn batch(seed: u64) -> Result<Batch> {
    let normal = |shape: &[i32], seed| -> Result<Array> {
        Ok(random::normal::<f32>(shape, None, None, &rng::key(seed)?)?)
    };
    let labels: Vec<i32> = (0..64).map(|row| row % 10).collect();
    let labels = Array::from_slice(&labels, &[64]);
    let scales: Vec<f32> = (0..66).map(|at| if at % 3 == 0 { 1e-3 } else { 1.0 }).collect();
    let centres = normal(&[10, 66], 1)?.take_axis(&labels, 0)?;
    let points = centres.add(normal(&[64, 66], seed)?.multiply(Array::from_f32(2.0))?)?;
    Ok(Batch::new(points.multiply(Array::from_slice(&scales, &[66]))?, labels))
}

fn eager(precision: Precision) -> StepOptions {
    StepOptions { precision, compile: CompileMode::Off, ..StepOptions::default() }
}

/// The mean loss of the last twenty of some steps.
fn trained(optimizer: impl Optimizer, precision: Precision, steps: u64) -> Result<f32> {
    let rate = if format!("{optimizer:?}").starts_with("Lion") { 1e-3 } else { 3e-3 };
    let mut model = Classifier::new()?;
    let mut step = TrainStep::new(&mut model, optimizer, 0, eager(precision))?;
    let mut sum = 0.0;
    for index in 0..steps {
        let output = step.run([batch(100 + index)], rate)?;
        if index + 20 >= steps {
            sum += output.loss.value.try_item_exact::<f32>()? / 20.0;
        }
    }
    Ok(sum)
}

#[test]
fn the_loss_falls_as_far_as_with_f32_means() -> Result<()> {
    let first = trained(AdamW::default(), Precision::F32, 20)?;
    for precision in [Precision::F32, Precision::Bf16 { stochastic_rounding: true }] {
        let adamw = FORMATS.map(|format| trained(AdamW::default().state(format), precision, 120));
        let lion = FORMATS.map(|format| trained(Lion::default().state(format), precision, 120));
        for losses in [adamw, lion] {
            let [whole, half, bytes] = losses;
            let (whole, half, bytes) = (whole?, half?, bytes?);
            assert!(whole < first / 2.0, "{whole} after {first}");
            for low in [half, bytes] {
                assert!((low / whole - 1.0).abs() < 0.02, "{low}, with f32 {whole}");
            }
        }
    }
    Ok(())
}

#[test]
fn state_takes_half_and_a_quarter_of_the_memory() -> Result<()> {
    let value = Array::zeros::<f32>(&[300, 257])?;
    let bytes = |optimizer: &dyn Optimizer| -> Result<usize> {
        let state = OptimizerState::new(optimizer, [Parameter { name: "w", value: &value }])?;
        Ok(state.arrays().map(Array::nbytes).sum())
    };
    let [whole, half, packed] = FORMATS.map(|format| bytes(&AdamW::default().state(format)));
    let (whole, half, packed) = (whole?, half?, packed?);
    assert_eq!((whole, half), (2 * value.nbytes(), value.nbytes()));
    // 256 codes and a scale of two bytes, and the last block is not full.
    assert!(packed * 1000 < whole * 253 && packed * 1000 > whole * 250, "{packed} of {whole}");
    let [whole, _, packed] = FORMATS.map(|format| bytes(&Lion::default().state(format)));
    assert!(packed? * 1000 < whole? * 253);
    Ok(())
}

#[test]
fn a_step_goes_on_bit_for_bit_from_the_state_that_was_saved() -> Result<()> {
    for format in FORMATS {
        for precision in
            [Precision::F32, Precision::Mixed, Precision::Bf16 { stochastic_rounding: true }]
        {
            let optimizer = AdamW::default().state(format);
            let mut model = Classifier::new()?;
            let mut step = TrainStep::new(&mut model, optimizer.clone(), 0, eager(precision))?;
            for index in 0..3 {
                step.run([batch(index)], 1e-2)?;
            }
            let saved = step.snapshot()?;
            for index in 3..6 {
                step.run([batch(index)], 1e-2)?;
            }
            let expected = step.snapshot()?;

            let mut model = Classifier::new()?;
            let mut resumed = TrainStep::new(&mut model, optimizer, 1, eager(precision))?;
            resumed.restore(&saved, 3)?;
            for index in 3..6 {
                resumed.run([batch(index)], 1e-2)?;
            }
            let found = resumed.snapshot()?;
            let pairs = expected.weights.iter().zip(&found.weights);
            for (a, b) in pairs.chain(expected.training.iter().zip(&found.training)) {
                assert_eq!((&a.0, a.1.dtype(), floats(&a.1)), (&b.0, b.1.dtype(), floats(&b.1)));
            }
        }
    }
    Ok(())
}

/// One update with the learning rate 0, which changes nothing but the means.
fn updated(
    optimizer: &dyn Optimizer,
    gradient: &Array,
    state: &OptimizerState,
    step: i32,
) -> Result<OptimizerState> {
    let values = [Array::zeros::<f32>(gradient.shape())?];
    let (rate, step) = (Array::from_f32(0.0), Array::from_int(step));
    Ok(apply(optimizer, &values, std::slice::from_ref(gradient), state, &rate, &step)?.1)
}

/// With betas of 0, the momentum is the gradient, rounded.
#[test]
fn rounding_keeps_the_mean_of_small_and_large_numbers() -> Result<()> {
    let values: Vec<f32> =
        (0..4096).map(|at| [1.003, 0.123, -3.3e-2, 1.7e-4, -9e-6][at % 5]).collect();
    let gradient = Array::from_slice(&values, &[4096]);
    for format in [StateFormat::Bf16, StateFormat::Int8] {
        let optimizer = Lion::default().betas(0.0, 0.0)?.state(format);
        let fresh =
            OptimizerState::new(&optimizer, named(&["w"], std::slice::from_ref(&gradient)))?;
        let mut sums = [0.0_f64; 5];
        let num_updates = 50;
        for step in 1..=num_updates {
            let state = updated(&optimizer, &gradient, &fresh, step)?;
            for (at, value) in decoded(&state, format).into_iter().enumerate() {
                sums[at % 5] += f64::from(value);
            }
        }
        for (at, sum) in sums.iter().enumerate() {
            let count = f64::from(num_updates) * (4096.0 / 5.0);
            let (mean, expected) = (sum / count, f64::from(values[at]));
            // The last one is between 0 and the smallest code of a byte, so chance has more of it.
            let tolerance = if at == 4 { 0.02 } else { 0.002 };
            assert!(
                (mean / expected - 1.0).abs() < tolerance,
                "{format:?}: {mean}, not {expected}"
            );
        }
    }
    Ok(())
}

#[test]
fn parameters_of_other_names_draw_otherwise() -> Result<()> {
    let gradient = random::normal::<f32>(&[4096], None, None, &rng::key(3)?)?;
    let optimizer = Lion::default().betas(0.0, 0.0)?.state(StateFormat::Int8);
    let codes = |name: &str| -> Result<Vec<f32>> {
        let parameter = Parameter { name, value: &gradient };
        let fresh = OptimizerState::new(&optimizer, [parameter])?;
        let state = updated(&optimizer, &gradient, &fresh, 1)?;
        Ok(floats(state.arrays().next().expect("codes")))
    };
    assert_eq!(codes("layers.0.weight")?, codes("layers.0.weight")?);
    assert_ne!(codes("layers.0.weight")?, codes("layers.1.weight")?);
    Ok(())
}

/// The momentum of a state of Lion, as the format is documented to hold it.
fn decoded(state: &OptimizerState, format: StateFormat) -> Vec<f32> {
    let arrays: Vec<_> = state.arrays().collect();
    if format != StateFormat::Int8 {
        return floats(arrays[0]);
    }
    let (codes, scales) = (floats(arrays[0]), floats(arrays[1]));
    let value = |(at, code): (usize, &f32)| {
        let power = (code.abs() - 127.0) * 16.0 / 126.0;
        if *code == 0.0 { 0.0 } else { code.signum() * power.exp2() * scales[at / 256] }
    };
    codes.iter().enumerate().map(value).collect()
}

#[test]
fn a_second_moment_that_is_small_beside_its_neighbours_is_never_zero() -> Result<()> {
    let mut values = vec![1e-7_f32; 4096];
    values[0] = 1.0;
    let gradient = Array::from_slice(&values, &[4096]);
    let optimizer = AdamW::default().state(StateFormat::Int8);
    let mut weights = vec![Array::zeros::<f32>(&[4096])?];
    let mut state = OptimizerState::new(&optimizer, named(&["w"], &weights))?;
    for step in 1..20 {
        let (rate, step) = (Array::from_f32(1e-3), Array::from_int(step));
        (weights, state) =
            apply(&optimizer, &weights, std::slice::from_ref(&gradient), &state, &rate, &step)?;
    }
    let moved = floats(&weights[0]);
    // A step of Adam is a rate at most, whatever its gradient; here 19 of them.
    assert!(moved.iter().all(|moved| moved.abs() < 0.03), "{:?}", &moved[..3]);
    assert!((moved[0] + 0.019).abs() < 2e-3, "{}", moved[0]);
    Ok(())
}

#[test]
fn a_traced_update_keeps_the_same_means() -> Result<()> {
    let gradient = random::normal::<f32>(&[80, 64], None, None, &rng::key(3)?)?;
    let optimizer = Lion::default().state(StateFormat::Int8);
    let fresh = OptimizerState::new(&optimizer, named(&["w"], std::slice::from_ref(&gradient)))?;
    let eager = updated(&optimizer, &gradient, &fresh, 1)?;
    let mut traced = ffi::compile(
        |inputs| {
            let state = fresh.with_arrays(inputs[1..].iter().cloned())?;
            Ok(updated(&optimizer, &inputs[0], &state, 1)?.arrays().cloned().collect())
        },
        false,
    )?;
    let inputs: Vec<Array> = [&gradient].into_iter().chain(fresh.arrays()).cloned().collect();
    let outputs = traced.call(&inputs)?;
    let (codes, expected) = (floats(&outputs[0]), floats(eager.arrays().next().expect("codes")));
    // A number next to a code may round to the other side in another order of arithmetic.
    let differing = codes.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert!(differing * 100 < codes.len(), "{differing} of {}", codes.len());
    assert_eq!(outputs[0].dtype(), Dtype::Int8);
    Ok(())
}
