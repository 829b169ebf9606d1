//! `cargo xtask demo`: both reference models train on real data, from a clean machine.

use super::setup;
use crate::error::Result;
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
    for model in both.into_iter().filter(|model| args.only.is_none_or(|only| only == *model)) {
        progress.step(model.subject());
        let mut command = workspace.cargo();
        command.args(["run", "--release", "--package", "mlx-train-examples", "--bin"]);
        command.arg(model.example()).arg("--").args(&args.rest);
        shell::stream(&mut command)?;
    }
    progress.step(format_args!(
        "done; curves, weights and samples are in {}",
        workspace.path("runs").display()
    ));
    Ok(())
}
