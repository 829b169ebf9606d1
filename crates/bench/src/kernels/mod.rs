//! Kernels of our own against MLX's operations: the same numbers, and the time of each.
//!
//! A line says how far both are from MLX's operations in f32, eager, compiled and checkpointed, and what they take.
//! Where there is no GPU, both are MLX's operations, and a line says so.

mod agreement;
mod case;

use self::{
    agreement::{Agreement, Form},
    case::{Case, Subject},
};
use crate::{
    Options,
    record::{Record, print_line},
    timing::{NUM_WARMUPS, Quantiles, timed},
};
use clap::ValueEnum;
use mlx_train::{
    Error, Result, ffi,
    kernels::{kernel_form, without_kernels},
    mlx_rs::Dtype,
    profile::Memory,
};
use serde_json::{Value, json};

/// Which of them, and what is asked of them.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of kernels")]
pub struct KernelArgs {
    /// What is computed with kernels (repeatable) [default: all]
    #[arg(long = "kernel", value_enum, value_name = "KERNEL")]
    subjects: Vec<Subject>,
    /// Do one part: compare many cases, or measure and compare those of a GPT-2 small
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Compare,
    Measure,
}

/// Compares and measures, prints lines for each function and dtype, and fails at the end if some disagree.
pub fn run(options: &Options, args: &KernelArgs) -> Result<()> {
    let all = args.subjects.is_empty();
    let subjects = if all { Subject::value_variants() } else { &args.subjects };
    let mut disagreeing = Vec::new();
    for &subject in subjects {
        for dtype in [Dtype::Bfloat16, Dtype::Float32, Dtype::Float16] {
            let is_on_gpu = kernel_form(subject.family())?.is_some();
            let mut agreement = Agreement::default();
            if args.part != Some(Part::Measure) {
                for case in subject.compared(dtype)? {
                    agreement.add(&case, &Form::COMPARED);
                }
                print_agreement(subject, dtype, "many", &agreement)?;
            }
            if args.part != Some(Part::Compare) {
                for case in subject.measured(dtype, is_on_gpu)? {
                    let mut of_case = Agreement::default();
                    of_case.add(&case, if is_on_gpu { &Form::ALL } else { &Form::COMPARED });
                    print_agreement(subject, dtype, "measured", &of_case)?;
                    measure(subject, dtype, &case, &of_case, options)?;
                    agreement.extend(of_case);
                }
            }
            disagreeing.extend(agreement.problems().map(|it| format!("{}: {it}", subject.name())));
        }
    }
    if disagreeing.is_empty() {
        return Ok(());
    }
    Err(Error::message(format!(
        "{} cases are not what MLX's operations make of them:\n{}",
        disagreeing.len(),
        disagreeing.join("\n")
    )))
}

/// Prints whether kernels compute what MLX's operations do.
fn print_agreement(
    subject: Subject,
    dtype: Dtype,
    cases: &str,
    agreement: &Agreement,
) -> Result<()> {
    let is_on_gpu = kernel_form(subject.family())?.is_some();
    let mut line = json!({
        "benchmark": "kernels",
        "model": subject.name(),
        "dtype": name_of(dtype),
        "cases": cases,
        "has_kernels": is_on_gpu,
    });
    if let (Value::Object(line), Value::Object(told)) = (&mut line, agreement.told()) {
        line.extend(told);
    }
    print_line(&line)
}

fn name_of(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bfloat16 => "bfloat16",
        Dtype::Float16 => "float16",
        _ => "float32",
    }
}

/// What was measured of one form.
struct Measured {
    form: Form,
    seconds: Vec<f64>,
    first_seconds: f64,
    peak_bytes: u64,
}

/// Prints a line with kernels and one without, each eager and, on a GPU, compiled; all take turns.
fn measure(
    subject: Subject,
    dtype: Dtype,
    case: &Case,
    agreement: &Agreement,
    options: &Options,
) -> Result<()> {
    let is_on_gpu = kernel_form(subject.family())?.is_some();
    let forms = if is_on_gpu { &Form::MEASURED[..] } else { &Form::MEASURED[..2] };
    let mut all = Vec::new();
    for &form in forms {
        // A kernel that cannot run has said so in the comparison; the others are measured all the same.
        if form.with_kernels && agreement.failed() {
            continue;
        }
        all.push(Measured { form, seconds: Vec::new(), first_seconds: 0.0, peak_bytes: 0 });
    }
    let mut work: Vec<_> =
        all.iter().map(|it| case.repeated(it.form)).collect::<Result<Vec<_>>>()?;
    for index in 0..NUM_WARMUPS + options.steps {
        for (measured, work) in all.iter_mut().zip(&mut work) {
            Memory::reset_peak()?;
            let mut once = || ffi::eval(&work()?);
            let (done, took) =
                timed(
                    || {
                        if measured.form.with_kernels { once() } else { without_kernels(&mut once) }
                    },
                );
            done?;
            if index == 0 {
                measured.first_seconds = took;
            }
            if index >= NUM_WARMUPS {
                measured.seconds.push(took / f64::from(case.repeats()));
            }
            measured.peak_bytes = Memory::now()?.peak_bytes;
        }
    }
    let medians: Vec<(Form, f64)> =
        all.iter().map(|it| (it.form, Quantiles::of(it.seconds.clone()).median)).collect();
    for Measured { form, seconds, first_seconds, peak_bytes } in all {
        let seconds = Quantiles::of(seconds);
        let gigabytes_per_second = case.least_bytes as f64 / seconds.median / 1e9;
        let mut further = json!({ "gigabytes_per_second": gigabytes_per_second });
        if form.with_kernels {
            let other = Form { with_kernels: false, ..form };
            let own = medians.iter().find(|(form, _)| *form == other).map(|(_, median)| median);
            further["of_mlx"] = json!(own.map(|own| seconds.median / own));
            further["agrees"] = json!(agreement.agrees());
            further["largest_error"] = json!(agreement.largest_error());
        }
        Record {
            benchmark: "kernels",
            framework: match (form.with_kernels, is_on_gpu) {
                (true, true) => "mlx-train",
                (true, false) => "mlx-train (no GPU: MLX's operations)",
                (false, _) => "MLX's operations",
            },
            model: subject.name(),
            shapes: json!(case.shapes()),
            dtype: name_of(dtype),
            compiled: form.compiled,
            seconds,
            first_seconds,
            tokens_per_second: None,
            peak_bytes,
            further,
        }
        .print()?;
    }
    Ok(())
}
