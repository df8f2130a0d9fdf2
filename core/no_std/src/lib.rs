//! See `Cargo.toml`.

#![no_std]

pub use kpl_core::Producer;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
