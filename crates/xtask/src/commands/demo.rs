//! `cargo xtask demo`: both reference models train on real data, from a clean machine.

use super::setup;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::shell;
use crate::workspace::Workspace;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo                     both models, under five minutes on two cores
  cargo xtask demo --only mlp          handwritten digits only
  cargo xtask demo --only transformer -- --help
                                       what comes after -- goes to the example itself")]
pub struct DemoArgs {
    /// Run one of the two
    #[arg(long, value_enum)]
    only: Option<Model>,

    /// Arguments for the example, which must understand them
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Model {
    Mlp,
    Transformer,
}

impl Model {
    fn example(self) -> &'static str {
        match self {
            Self::Mlp => "train_mlp",
            Self::Transformer => "train_transformer",
        }
    }

    /// Where the example leaves its results, below the repository.
    fn run_folder(self) -> &'static str {
        match self {
            Self::Mlp => "runs/mlp-digits",
            Self::Transformer => "runs/transformer-text",
        }
    }

    /// Commands to go on with.
    fn next(self) -> &'static [&'static str] {
        match self {
            Self::Mlp => &["models describe mlp", "checkpoint list runs/mlp-digits"],
            Self::Transformer => &[
                "generate runs/transformer-text --prompt '/// Returns the '",
                "train --config runs/transformer-text/config.toml --set data.path=YOUR_TEXT",
            ],
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Self::Mlp => "an MLP learns handwritten digits",
            Self::Transformer => "a transformer learns to write, byte by byte",
        }
    }
}

/// The subcommand.
///
/// # Errors
/// When set-up, a build or a training fails.
pub fn run(workspace: &Workspace, args: &DemoArgs) -> Result<()> {
    setup::ensure(workspace)?;
    let progress = Progress::start();
    let both = [Model::Mlp, Model::Transformer];
    let models = both.into_iter().filter(|model| args.only.is_none_or(|only| only == *model));
    let models: Vec<Model> = models.collect();
    for model in &models {
        progress.step(model.subject());
        let mut command = workspace.cargo();
        command.args(["run", "--release", "--package", "mlx-train-examples", "--bin"]);
        command.arg(model.example()).arg("--").args(&args.rest);
        shell::stream(&mut command)?;
    }
    // Arguments may have asked for help alone, or for another folder.
    if args.rest.is_empty() {
        println!();
        progress.step("done");
        show_results(workspace, &models)?;
    }
    Ok(())
}

/// The run folders with their files, and what to type next.
fn show_results(workspace: &Workspace, models: &[Model]) -> Result<()> {
    for model in models {
        let folder = workspace.path(model.run_folder());
        let entries = folder.read_dir().map_err(Error::io("list", &folder))?;
        let names = entries.flatten().map(|entry| entry.file_name().display().to_string());
        let mut names: Vec<_> = names.collect();
        names.sort();
        println!("  {}: {}", folder.display(), names.join(", "));
        println!("  open {} in a browser", folder.join("index.html").display());
    }
    println!("\nGo on with:");
    for next in models.iter().flat_map(|model| model.next()) {
        println!("  cargo run --release --bin mlx-train -- {next}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_looked_for_where_the_examples_put_them() {
        for model in [Model::Mlp, Model::Transformer] {
            let path = Workspace::find().path("examples").join(model.example());
            let source = std::fs::read_to_string(path.with_extension("rs")).expect("there");
            let default = format!("default_value = \"{}\"", model.run_folder());
            assert!(source.contains(&default), "{} lacks {default}", model.example());
        }
    }
}
