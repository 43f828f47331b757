//! Compiles the service of `grpc_behind_nat`, without protoc. Tunnels need none of this: any tonic service will do.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=greeter.proto");
    let mut proto = protox::Compiler::new(["."])?;
    proto.open_files(["greeter.proto"])?;
    tonic_prost_build::configure().compile_fds(proto.file_descriptor_set())?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("greeter.bin"), proto.encode_file_descriptor_set())?;
    Ok(())
}
