//! Images as rows, and their names.

use super::{Show, short};
use crate::api::types::Image;
use crate::cli::human;
use crate::cli::table::Cell;
use crate::cli::table::Table;
use crate::image::reference::Reference;

/// `docker.io/library/nginx:1` for `nginx:1`: the name on record.
pub(super) fn full_image(name: &str) -> String {
    let parsed = name.parse::<Reference>();
    parsed.map_or_else(|_| name.to_string(), |r| r.to_string())
}

/// `nginx:1` for `docker.io/library/nginx:1`: the name that people write.
pub(in crate::cli) fn familiar_image(name: &str) -> String {
    let parsed = name.parse::<Reference>();
    parsed.map_or_else(|_| name.to_string(), |r| r.familiar())
}

pub(super) fn image_table(images: &[Image], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "DIGEST", "PLATFORMS", "SIZE", "AGE"];
    if show.wide() {
        head.push("FULL DIGEST");
    }
    let mut table = Table::new(&head);
    for image in images {
        let platforms: Vec<&str> = image
            .platforms
            .iter()
            .map(|p| p.platform.as_str())
            .collect();
        let size = image.platforms.iter().map(|p| p.size_bytes).sum();
        let mut row: Vec<Cell> = vec![
            familiar_image(&image.reference).into(),
            short(&image.digest).into(),
            platforms.join(",").into(),
            human::bytes(size).into(),
            human::age(image.added_ms, now).into(),
        ];
        if show.wide() {
            row.push(image.digest.as_str().into());
        }
        table.row(row);
    }
    table
}
