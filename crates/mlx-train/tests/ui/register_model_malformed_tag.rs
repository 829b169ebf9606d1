use mlx_train::register_model;

#[register_model("model", tags = ["Vision"])]
struct Model;

fn main() {}
