use mlx_train::register_model;

#[register_model("3d_unet")]
struct Model;

fn main() {}
