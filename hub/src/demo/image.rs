//! Makes the demo's image: an OCI archive with one layer and one program in it.

use serde_json::json;
use skerry_wire::Digest;
use std::io::{self, Write};

/// One file of the image's only layer.
pub struct File<'a> {
    /// Path inside, without a leading slash.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub bytes: &'a [u8],
}

/// Writes an OCI archive (image-layout spec 1.0, as a tar) named `reference`
/// for this machine's architecture.
pub fn write_oci_archive(
    out: impl Write,
    reference: &str,
    files: &[File],
    entrypoint: &[&str],
) -> io::Result<()> {
    let architecture = oci_architecture(std::env::consts::ARCH);
    write_oci_archive_for(out, reference, architecture, files, entrypoint)
}

/// The same for another architecture, by OCI's name of it.
pub fn write_oci_archive_for(
    out: impl Write,
    reference: &str,
    architecture: &str,
    files: &[File],
    entrypoint: &[&str],
) -> io::Result<()> {
    let layer = layer(files)?;
    let layer_digest = Digest::of(&layer);
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        // The layer is not compressed, so its digest is its diff id.
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let mut named = descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.as_bytes(),
    );
    named["annotations"] = json!({
        "org.opencontainers.image.ref.name": reference,
        "io.containerd.image.name": reference,
    });
    let index = json!({"schemaVersion": 2, "manifests": [named]}).to_string();

    let mut archive = tar::Builder::new(out);
    add(
        &mut archive,
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    add(&mut archive, "index.json", 0o644, index.as_bytes())?;
    for blob in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        let path = format!("blobs/sha256/{}", Digest::of(blob).hex());
        add(&mut archive, &path, 0o644, blob)?;
    }
    archive.into_inner()?.flush()
}

/// OCI's word for what Rust calls `arch`.
fn oci_architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn layer(files: &[File]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        add(&mut archive, file.path, file.mode, file.bytes)?;
    }
    archive.into_inner()
}

fn add(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}
