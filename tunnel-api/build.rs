//! Compiles `proto/` without protoc: once with comments for the generated code, once without for reflection.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "rpc")]
    rpc::generate()?;
    Ok(())
}

#[cfg(feature = "rpc")]
mod rpc {
    use std::{env, error::Error, fs, path::PathBuf};

    const PROTO: &str = "tunnel/v1/tunnel.proto";

    pub(crate) fn generate() -> Result<(), Box<dyn Error>> {
        let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../proto");
        println!("cargo::rerun-if-changed={}", root.join(PROTO).display());

        let mut code = protox::Compiler::new([&root])?;
        code.include_imports(true).include_source_info(true).open_files([PROTO])?;
        tonic_prost_build::configure().compile_fds(code.file_descriptor_set())?;

        let mut reflection = protox::Compiler::new([&root])?;
        reflection.include_imports(true).include_source_info(false).open_files([PROTO])?;
        let out = PathBuf::from(env::var("OUT_DIR")?).join("tunnel_v1.fds");
        fs::write(out, reflection.encode_file_descriptor_set())?;
        Ok(())
    }
}
