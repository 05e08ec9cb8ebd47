//! Links the image.

fn main() {
    quarry_build_helper::link_image();
}
