use mlx_train::register_model;

#[register_model("model", version = "1")]
struct Model;

fn main() {}
