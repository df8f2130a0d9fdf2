//! A crate that builds only if kpl-core needs no standard library: see its `Cargo.toml`.

#![no_std]

pub use kpl_core::Producer;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
