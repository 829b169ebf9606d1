use mlx_train::register_model;

#[register_model("meta/llama")]
struct Model;

fn main() {}
