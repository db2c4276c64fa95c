//! Memory of a process as the kernel reports it: its size and its content.

use std::{fs, os::unix::fs::FileExt as _};

use super::bytes;

/// The longest needle. Adjacent blocks overlap by this length.
const OVERLAP: usize = 256;

/// Resident bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a running process");
    let kibibytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.expect("a line VmRSS") * 1024
}

/// The needles that occur in the writable memory of a running process.
pub(crate) fn found_in_memory<'a>(pid: u32, needles: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let maps =
        fs::read_to_string(format!("/proc/{pid}/maps")).expect("the map of a running process");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("the memory of a child process");
    let mut found = Vec::new();
    for (start, end) in maps.lines().filter_map(writable_range) {
        search(&memory, start, end, needles, &mut found);
    }
    found
}

/// Searches one range block by block.
fn search<'a>(
    memory: &fs::File,
    start: u64,
    end: u64,
    needles: &[&'a [u8]],
    found: &mut Vec<&'a [u8]>,
) {
    const BLOCK: u64 = 4 << 20;
    let mut at = start;
    while at < end {
        let length = (end - at).min(BLOCK + OVERLAP as u64);
        let mut block = vec![0; length as usize];
        // A range may vanish while it is read.
        if memory.read_exact_at(&mut block, at).is_ok() {
            let there = needles
                .iter()
                .filter(|needle| bytes::contains(&block, needle));
            found.extend(there);
        }
        at += BLOCK;
    }
}

/// Start and end of the range in a line of `maps`, if it is readable and writable.
fn writable_range(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let (start, end) = range.split_once('-')?;
    rights.starts_with("rw").then_some(())?;
    Some((
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    ))
}
