//! `image`: imports, pulls and lists images.

use super::args::{ImageArgs, ImageCommand};
use super::client::{Client, with_query};
use super::error::CliError;
use super::get::{self, short};
use super::operate::list_args;
use super::output::Out;
use super::transfer::{CHUNK, Counted, packed};
use crate::api::types::{Image, List, Pull};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Imports, pulls and lists images.
pub(super) fn image(out: &mut Out, client: &Client, args: ImageArgs) -> Result<(), CliError> {
    match args.command {
        ImageCommand::Import { file, name } => import(out, client, &file, name),
        ImageCommand::Pull {
            reference,
            platforms,
        } => {
            if let Err(problem) = crate::manifest::check_reference(&reference) {
                return Err(CliError::Usage(format!(
                    "'{reference}' is not an image name: {problem}"
                )));
            }
            let text = format!("the hub pulls {reference}");
            let body = Pull {
                reference,
                platforms,
            };
            let image: Image =
                out.progress_while(&text, || client.post("/v1/images/pull", &body))?;
            imported(out, &[image], "pulled")
        }
        ImageCommand::List { output } => get::get(out, client, list_args("images", output)),
    }
}

fn import(
    out: &mut Out,
    client: &Client,
    file: &Path,
    name: Option<String>,
) -> Result<(), CliError> {
    let path = with_query("/v1/images", &[("name", name)]);
    let shown = file.display().to_string();
    let failed = |e| CliError::io(format!("read {shown}"), e);
    let images: List<Image> = if file == Path::new("-") {
        let mut reader = Counted::new(out, io::stdin().lock(), None);
        client.upload(&path, &mut reader, None)?
    } else if file.is_dir() {
        import_directory(out, client, file, &path)?
    } else {
        let opened = File::open(file).map_err(failed)?;
        let meta = opened.metadata().map_err(failed)?;
        let length = meta.is_file().then_some(meta.len());
        let mut reader = Counted::new(out, opened, length);
        client.upload(&path, &mut reader, length)?
    };
    imported(out, &images.items, "imported")
}

/// An OCI layout directory travels as a tar, packed on the way.
fn import_directory(
    out: &mut Out,
    client: &Client,
    dir: &Path,
    path: &str,
) -> Result<List<Image>, CliError> {
    if !dir.join("oci-layout").is_file() {
        return Err(CliError::failed(
            format!(
                "{} is no OCI layout: it has no file oci-layout",
                dir.display()
            ),
            "name a directory that skopeo or umoci wrote, or a tar file",
        ));
    }
    let failed = |e| CliError::io(format!("read {}", dir.display()), e);
    let owned = dir.to_path_buf();
    let pack = move |writer| {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(CHUNK, writer));
        tar.follow_symlinks(false);
        tar.append_dir_all(".", &owned)?;
        tar.into_inner()?.flush()
    };
    packed(failed, pack, |reader| {
        client.upload(path, &mut Counted::new(out, reader, None), None)
    })
}

fn imported(out: &mut Out, images: &[Image], verb: &str) -> Result<(), CliError> {
    for image in images {
        let platforms: Vec<&str> = image
            .platforms
            .iter()
            .map(|p| p.platform.as_str())
            .collect();
        out.print(&format!(
            "image/{} {verb} ({}, {})\n",
            get::familiar_image(&image.reference),
            short(&image.digest),
            platforms.join(" ")
        ))?;
    }
    Ok(())
}
