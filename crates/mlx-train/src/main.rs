//! The reference models on the command line; a program of your own has the same `main`.

fn main() -> mlx_train::Result<()> {
    mlx_train::cli::main()
}
