//! Join tokens as rows.

use super::Show;
use super::devices::labels;
use crate::api::types::{Approval, Token};
use crate::cli::human;
use crate::cli::output::Style;
use crate::cli::table::{Cell, Table};

pub(super) fn token_table(tokens: &[Token], _: &Show) -> Table {
    let now = human::now_ms();
    let mut table = Table::new(&["ID", "USES LEFT", "EXPIRES", "APPROVE", "LABELS", "AGE"]);
    for token in tokens {
        let (expires, style) = match token.expires_ms.checked_sub(now) {
            Some(left) if left > 0 => {
                let left = human::span(std::time::Duration::from_millis(left));
                (format!("in {left}"), Style::Plain)
            }
            _ => ("expired".into(), Style::Dim),
        };
        let approve = match token.approve {
            Approval::Auto => "auto",
            Approval::Manual => "manual",
        };
        table.row(vec![
            token.id.as_str().into(),
            token.uses_left.to_string().into(),
            Cell::new(expires, style),
            approve.into(),
            labels(&token.labels).into(),
            human::age(token.created_ms, now).into(),
        ]);
    }
    table
}
