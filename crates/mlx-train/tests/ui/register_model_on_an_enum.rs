use mlx_train::register_model;

#[register_model("model")]
enum Model {
    A,
}

fn main() {}
