//! Backups.

use crate::common::*;
use crate::fleet::Fleet;
use crate::program::say;
use skerry_hub::server::Server;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_backup_becomes_a_hub_again() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        fleet.apply_and_run().await;
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("hub.tar");
        let shown = file.display().to_string();
        let said = fleet.say(&["backup", &shown]).await;
        assert!(said.err.contains("it holds the hub's keys"), "{}", said.err);
        assert!(said.ok().starts_with(&format!("{shown} written (")));
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fleet.server.stop().await.unwrap();

        let again = place.path().join("again");
        let said = say(&again, &["restore", &shown]).await.ok();
        assert!(
            said.starts_with(&format!("{} restored from {shown}", again.display())),
            "{said}"
        );
        say(&again, &["restore", &shown]).await.fails(1, "error: ");
        let images = FakeImages::new(&again);
        let server = Server::start(&options(&again), images, executor.clone())
            .await
            .unwrap();
        assert_eq!(
            say(&again, &["get", "apps", "-o", "name"]).await.ok(),
            "app/web\n"
        );
        server.stop().await.unwrap();
    });
}
