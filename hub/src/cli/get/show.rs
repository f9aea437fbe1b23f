//! How a list is printed: as a table, or as data for programs.

use super::manifest_of;
use crate::api::types::{App, List};
use crate::cli::args::{Format, Resource};
use crate::cli::error::CliError;
use crate::cli::output::Out;
use crate::cli::table::Table;
use crate::cli::yaml;
use serde::Serialize;

/// What the operator wants to see of a list.
pub(in crate::cli) struct Show {
    pub format: Format,
    pub headings: bool,
    pub every_namespace: bool,
    pub one: bool,
    /// What devices were chosen by.
    pub selector: Option<String>,
}

impl Show {
    pub fn list<T: Serialize>(
        &self,
        out: &mut Out,
        resource: Resource,
        items: &[T],
        table: impl Fn(&[T], &Show) -> Table,
        name: impl Fn(&T) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json => out.print(&self.json(items)),
            Format::Yaml => {
                let value = self.value(items);
                out.print(&yaml::to_yaml(&value))
            }
            Format::Name => {
                let singular = resource.singular();
                let line = |item| format!("{singular}/{}\n", name(item));
                out.print(&items.iter().map(line).collect::<String>())
            }
            Format::Table | Format::Wide => {
                let table = table(items, self);
                if table.is_empty() {
                    out.note(&nothing(resource, self.selector.as_deref()));
                    return Ok(());
                }
                let text = table.render(out.colour, self.headings);
                out.print(&text)
            }
        }
    }

    /// Apps as YAML are manifests: what comes out can be applied again.
    pub fn apps(
        &self,
        out: &mut Out,
        resource: Resource,
        apps: &[App],
        table: impl Fn(&[App], &Show) -> Table,
    ) -> Result<(), CliError> {
        if self.format != Format::Yaml {
            return self.list(out, resource, apps, table, |a| a.name.clone());
        }
        let texts: Vec<String> = apps.iter().map(manifest_of).collect();
        out.print(&texts.join("---\n"))
    }

    fn value<T: Serialize>(&self, items: &[T]) -> serde_json::Value {
        match items {
            [item] if self.one => to_value(item),
            _ => to_value(&List {
                items: items.iter().collect::<Vec<_>>(),
            }),
        }
    }

    fn json<T: Serialize>(&self, items: &[T]) -> String {
        let value = self.value(items);
        let text = serde_json::to_string_pretty(&value).unwrap_or_else(|_| value.to_string());
        format!("{text}\n")
    }

    pub fn wide(&self) -> bool {
        self.format == Format::Wide
    }
}

pub(super) fn to_value<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

pub(super) fn json_line<T: Serialize>(value: &T) -> String {
    format!("{}\n", to_value(value))
}

pub(super) fn nothing(resource: Resource, selector: Option<&str>) -> String {
    if let Some(selector) = selector {
        let what = match resource {
            Resource::Containers => "container is on a device that",
            _ => "device",
        };
        return format!(
            "no {what} matches '{selector}'; see their labels with 'skerry get devices'"
        );
    }
    let text = match resource {
        Resource::Devices => "no devices yet; let one join with the token of 'skerry token create'",
        Resource::Apps => {
            "no apps here; make one with 'skerry apply -f', or look everywhere with -A"
        }
        Resource::Jobs => "no jobs here; make one with kind: Job and 'skerry apply -f'",
        Resource::CronJobs => "no cronjobs here; make one with kind: CronJob and 'skerry apply -f'",
        Resource::Containers => "no containers here",
        Resource::Images => {
            "no images yet; bring one with 'skerry image import' or 'skerry image pull'"
        }
        Resource::Events => "nothing happened yet",
        Resource::Configs => {
            "no configs here; make one with 'skerry create config', or look everywhere with -A"
        }
        Resource::Secrets => {
            "no secrets here; make one with 'skerry create secret', or look everywhere with -A"
        }
        Resource::Tokens => "no tokens; make one with 'skerry token create'",
        Resource::Releases => {
            "no releases; 'skerry release sign' makes one, 'skerry release import' brings it here"
        }
        Resource::Rollouts => {
            "nothing was rolled out yet; 'skerry release rollout' or 'skerry line set' does"
        }
    };
    text.into()
}
