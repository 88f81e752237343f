//! Who listens on a port of the loopback interface, as the kernel tells it in `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody listens.
    Nobody,
    /// A process of the group, or one that it started.
    Group,
    Another,
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    inode: u64,
    uid: u32,
    bound: Bound,
}

/// A connection to 127.0.0.1 goes to who is bound to this address, and only else to who is bound to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Loopback,
    All,
}

/// Who would be talked to on 127.0.0.1. `group` is the id of a process group and of its first process.
pub fn owner_of(port: u16, group: i32) -> Owner {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let listeners: Vec<Listener> = tables.iter().flat_map(|table| listeners(table, port)).collect();
    let is_exact = listeners.iter().any(|listener| listener.bound == Bound::Loopback);
    let wanted = if is_exact { Bound::Loopback } else { Bound::All };
    let mut answering = listeners.iter().filter(|listener| listener.bound == wanted).peekable();
    if answering.peek().is_none() {
        return Owner::Nobody;
    }
    let members = members(group);
    // Several may share a port; each must be the group's.
    if answering.all(|listener| members.iter().any(|pid| holds(*pid, listener))) {
        Owner::Group
    } else {
        Owner::Another
    }
}

/// Lines such as `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 …`.
fn listeners(table: &str, port: u16) -> Vec<Listener> {
    const LISTENS: &str = "0A";
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, local_port) = fields.get(1)?.split_once(':')?;
        if u16::from_str_radix(local_port, 16).ok()? != port || *fields.get(3)? != LISTENS {
            return None;
        }
        let bound = match address {
            "0100007F" | "0000000000000000FFFF00000100007F" => Bound::Loopback,
            zeros if zeros.bytes().all(|b| b == b'0') => Bound::All,
            _ => return None,
        };
        Some(Listener { uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()?, bound })
    };
    table.lines().skip(1).filter_map(listener).collect()
}

/// The processes of a group, and what they started.
fn members(group: i32) -> Vec<i32> {
    let mut parents: BTreeMap<i32, i32> = BTreeMap::new();
    let mut members = Vec::new();
    for pid in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = pid.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name of a program, in parentheses, may have anything in it.
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        let numbers: Vec<i32> = fields.split(' ').skip(1).take(2).filter_map(|field| field.parse().ok()).collect();
        let [parent, its_group] = numbers[..] else { continue };
        parents.insert(pid, parent);
        if its_group == group {
            members.push(pid);
        }
    }
    let mut known = 0;
    while known < members.len() {
        let parent = members[known];
        known += 1;
        let children = parents.iter().filter(|(_, its_parent)| **its_parent == parent).map(|(pid, _)| *pid);
        let new: Vec<i32> = children.filter(|pid| !members.contains(pid)).collect();
        members.extend(new);
    }
    members
}

fn holds(pid: i32, listener: &Listener) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        // It runs as somebody else, as under sudo, and its files are not for us to see: then whose socket it is must do.
        return fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == listener.uid);
    };
    let socket = format!("socket:[{}]", listener.inode);
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link == Path::new(&socket)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_listener_is_known_by_address_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0\n\
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0\n\
            2: 0100007F:1F90 0100007F:D000 01 00000000:00000000 00:00000000 00000000  1000        0 13 1 0 100 0\n\
            3: 0200007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 14 1 0 100 0\n\
            4: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 15 1 0 100 0\n";
        let found: Vec<(u64, Bound)> = listeners(table, 8080).iter().map(|l| (l.inode, l.bound)).collect();
        assert_eq!(found, [(11, Bound::Loopback), (12, Bound::All)]);
        assert_eq!(listeners(table, 1), []);
    }

    #[test]
    fn a_port_is_ours_only_if_our_program_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let us = rustix::process::getpgrp().as_raw_nonzero().get();
        assert_eq!(owner_of(port, us), Owner::Group);
        // A group that has nothing to do with it.
        let mut other = Command::new("cat");
        std::os::unix::process::CommandExt::process_group(&mut other, 0);
        let mut other = other.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert_eq!(owner_of(port, other.id().cast_signed()), Owner::Another);
        drop(other.stdin.take());
        other.wait().unwrap();
        drop(listener);
        assert_eq!(owner_of(port, us), Owner::Nobody);
    }
}
