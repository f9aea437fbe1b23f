//! What operators do with devices: let in, label, shut out.

use super::join::check_labels;
use super::record::{Change, RevokedKey, Standing};
use super::{
    Answer, Connection, Effect, Fleet, RefusedKind, RequestId, Turn, no_such_device, refused,
};
use skerry_wire::message::CommandBody;
use skerry_wire::{DeviceId, Labels, SessionId};

impl Fleet {
    pub(super) fn approve(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        name: DeviceId,
        labels: Labels,
    ) {
        let Some(device) = self.devices.get_mut(&name) else {
            return turn.answer(request, no_such_device(&name));
        };
        match device.record.standing {
            Standing::Pending => {}
            Standing::Approved => return turn.answer(request, Ok(Answer::Done)),
            Standing::Revoked => {
                let message = format!(
                    "device '{name}' was shut out: run 'skerry-agent reset' on it, then join it with a new token"
                );
                let no = refused(RefusedKind::Conflict, "DeviceRevoked", message);
                return turn.answer(request, no);
            }
        }
        let mut all = device.record.labels.clone();
        all.extend(labels);
        if let Err(message) = check_labels(&all) {
            let no = refused(RefusedKind::Invalid, "InvalidLabel", message);
            return turn.answer(request, no);
        }
        device.record.labels = all;
        device.record.standing = Standing::Approved;
        turn.dirty.insert(name.clone());
        let message = "was let in by an operator".to_string();
        self.note(turn, Some(&name), None, "Approved", message);
        self.place(turn, &name, true);
        self.updates_due();
        self.accept(turn, &name);
        // A hub that was restored may have one in its lobby that has long been
        // a device, and said so when nobody listened.
        self.unasked.insert(name);
        turn.answer(request, Ok(Answer::Done));
    }

    pub(super) fn label(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        name: DeviceId,
        set: Labels,
        remove: Vec<String>,
    ) {
        let Some(device) = self.devices.get_mut(&name) else {
            return turn.answer(request, no_such_device(&name));
        };
        let mut labels = device.record.labels.clone();
        for key in &remove {
            labels.remove(key);
        }
        labels.extend(set);
        if let Err(message) = check_labels(&labels) {
            let no = refused(RefusedKind::Invalid, "InvalidLabel", message);
            return turn.answer(request, no);
        }
        if labels != device.record.labels {
            device.record.labels = labels;
            turn.dirty.insert(name.clone());
            self.updates_due();
            self.place(turn, &name, true);
        }
        turn.answer(request, Ok(Answer::Done));
    }

    /// Shuts a device out at once: its messages are refused, its credentials
    /// are worth nothing, its connection is cut.
    pub(super) fn revoke(&mut self, turn: &mut Turn, request: RequestId, name: DeviceId) {
        let Some(device) = self.devices.get_mut(&name) else {
            return turn.answer(request, no_such_device(&name));
        };
        if device.record.standing == Standing::Revoked {
            // Shut out already: now the last trace goes. Its key stays shut out.
            self.devices.remove(&name);
            turn.dirty.remove(&name);
            turn.changes.push(Change::DeleteDevice(name.clone()));
            turn.changes.push(Change::DeleteReport(name));
            return turn.answer(request, Ok(Answer::Done));
        }
        let key = device.record.key;
        let told = device.record.session != SessionId(0);
        device.record.standing = Standing::Revoked;
        device.connection = Connection::Offline { since: turn.now };
        device.report = None;
        device.attempt = None;
        let revoked = RevokedKey {
            key,
            device: name.clone(),
            at: turn.now,
        };
        turn.changes.push(Change::PutRevokedKey(revoked.clone()));
        turn.changes.push(Change::DeleteReport(name.clone()));
        self.revoked.insert(key, revoked);
        self.by_key.remove(&key);
        self.unsent.remove(&name);
        self.unasked.remove(&name);
        turn.dirty.insert(name.clone());
        self.end_streams_of(turn, &name, "the device was shut out");
        self.forget_attempts(turn, &name);
        self.place(turn, &name, false);
        let message = "was shut out by an operator".to_string();
        self.note(turn, Some(&name), None, "Revoked", message);
        if told {
            self.send_command(turn, &name, CommandBody::Revoked);
        }
        turn.effects.push(Effect::Disconnect(name));
        turn.answer(request, Ok(Answer::Done));
    }
}
