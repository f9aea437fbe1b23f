//! `diff`: what apply would change.

use super::args::FilesArgs;
use super::client::Client;
use super::error::CliError;
use super::files;
use super::get::app_path;
use super::output::{Out, Style};
use super::unified;
use crate::api::types::{App, Difference, List, PinnedImage};

/// Prints the differences; exit code 1 if there are any.
pub(super) fn diff(out: &mut Out, client: &Client, args: &FilesArgs) -> Result<(), CliError> {
    let manifests = files::read(args, false)?;
    let answer: List<Difference> = client.post("/v1/diff", &manifests)?;
    let mut differs = false;
    for item in &answer.items {
        let running = match item.current {
            Some(_) if super::apply::runs(&item.kind) => {
                let app: App = client.get(&app_path(&item.namespace, &item.name))?;
                app.images
            }
            Some(_) | None => Vec::new(),
        };
        let text = difference(item, &running);
        if !text.is_empty() {
            differs = true;
            out.print(&coloured(&text, out.colour))?;
        }
    }
    match differs {
        true => Err(CliError::Exit(1)),
        false => Ok(()),
    }
}

/// The object before and after, with what its images' names mean as comments:
/// a tag that moved is a change too.
fn difference(item: &Difference, running: &[PinnedImage]) -> String {
    let name = format!(
        "{}/{}/{}",
        item.kind.to_lowercase(),
        item.namespace,
        item.name
    );
    let old = match &item.current {
        Some(current) => with_images(current, running),
        None => String::new(),
    };
    let meaning = |image: &PinnedImage| PinnedImage {
        reference: image.reference.clone(),
        // Not resolved by a diff: apply may find another digest, but nothing
        // says so yet.
        digest: image.digest.clone().or_else(|| {
            let same = running.iter().find(|r| r.reference == image.reference);
            same.and_then(|r| r.digest.clone())
        }),
    };
    let images: Vec<PinnedImage> = item.images.iter().map(meaning).collect();
    let new = with_images(&item.proposed, &images);
    unified::diff(&old, &new, &format!("hub/{name}"), &format!("files/{name}"))
}

fn with_images(yaml: &str, images: &[PinnedImage]) -> String {
    let mut text = yaml.to_string();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for image in images {
        let digest = image.digest.as_deref().unwrap_or("not resolved yet");
        text.push_str(&format!("# {} = {digest}\n", image.reference));
    }
    text
}

fn coloured(text: &str, colour: bool) -> String {
    let paint = |line: &str| {
        let style = match line.as_bytes().first() {
            Some(b'+') => Style::Good,
            Some(b'-') => Style::Bad,
            Some(b'@') => Style::Source(0),
            _ => Style::Plain,
        };
        style.paint(line, colour) + "\n"
    };
    text.lines().map(paint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digest: Option<&str>) -> PinnedImage {
        PinnedImage {
            reference: "nginx:1".into(),
            digest: digest.map(str::to_string),
        }
    }

    #[test]
    fn a_moved_tag_is_a_difference() {
        let mut item = Difference {
            kind: "App".into(),
            namespace: "default".into(),
            name: "web".into(),
            current: Some("a: 1\n".into()),
            proposed: "a: 1\n".into(),
            images: vec![image(Some("sha256:2"))],
        };
        assert_eq!(
            difference(&item, &[image(Some("sha256:1"))]),
            "--- hub/app/default/web\n+++ files/app/default/web\n@@ -1,2 +1,2 @@\n a: 1\n-# nginx:1 = sha256:1\n+# nginx:1 = sha256:2\n"
        );
        item.images = vec![image(None)];
        assert_eq!(difference(&item, &[image(Some("sha256:1"))]), "");
        item.current = None;
        assert!(
            difference(&item, &[])
                .contains("@@ -0,0 +1,2 @@\n+a: 1\n+# nginx:1 = not resolved yet\n")
        );
    }
}
