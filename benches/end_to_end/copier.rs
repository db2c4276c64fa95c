//! Copiers of TCP connections. Three of them in a row form the chain.
//!
//! A working chain also processes each byte as a tunnel with the same methods must. It compresses,
//! seals and masks at one end, unmasks in the middle, and opens and decompresses at the other end.
//! It has no streams on a shared link, no windows and no buffers for retransmission.
//!
//! The difference between the plain chain and a working chain is the cost of this work. The
//! difference between a working chain and rePort is rePort's overhead.

use std::{io, net::SocketAddr, process::Command, str::FromStr, sync::Arc};

use anyhow::Context;
use bytes::{Buf, BufMut, BytesMut};
use report_proto::{
    compress::{CompressMethod, Compressor, Decompressor, Pool},
    crypto::{Opener, Sealer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use crate::{
    alone,
    children::Children,
    options::COPIER,
    process::Process,
    services::{PIECE, run},
    systems::Role,
    variants::Methods,
};

/// The maximum bytes of one read before sealing, so that the sealed message fits into a piece.
const RAW: usize = PIECE - 1024;

/// The bytes before each sealed message, which hold its length.
const HEADER: usize = 4;

/// The mask. It has one byte, so that no process needs to know the start of a message.
const MASK: u8 = 0x5a;

/// The processing that a copier adds: its role and its methods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub role: Role,
    pub methods: Methods,
}

impl Work {
    /// Formats the work as a program argument: the role, the cipher and the compressor.
    pub(crate) fn argument(self) -> String {
        format!(
            "{}/{}/{}",
            self.role.name(),
            self.methods.encrypt,
            self.methods.compress
        )
    }
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split('/');
        let mut next = || {
            parts
                .next()
                .context("expected a role, a cipher and a compressor")
        };
        let name = next()?;
        let role = Role::ALL
            .into_iter()
            .find(|role| role.name() == name)
            .context("unknown role")?;
        let methods = Methods {
            encrypt: next()?.parse()?,
            compress: next()?.parse()?,
            tls: false,
        };
        Ok(Work { role, methods })
    }
}

/// Starts a copier process.
pub(crate) fn start(
    children: &Children,
    name: &str,
    target: SocketAddr,
    work: Option<Work>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(COPIER)
        .arg(target.to_string())
        .args(work.map(Work::argument));
    let process = children.start(name, &mut command)?;
    Ok((process, children.address(process)?))
}

/// Runs a copier. It opens one connection to `target` for each connection that it accepts.
pub(crate) fn copy(target: SocketAddr, work: Option<Work>) -> anyhow::Result<()> {
    run(move |mut one| async move {
        let Ok(mut other) = TcpStream::connect(target).await else {
            return;
        };
        if other.set_nodelay(true).is_err() {
            return;
        }
        // Ignore errors here: the ends of the connection report them.
        let _ = match work {
            None => copy_bidirectional_with_sizes(&mut one, &mut other, PIECE, PIECE)
                .await
                .map(drop)
                .map_err(anyhow::Error::from),
            Some(work) => copy_and_work(&mut one, &mut other, work).await,
        };
    })
}

async fn copy_and_work(
    one: &mut TcpStream,
    other: &mut TcpStream,
    work: Work,
) -> anyhow::Result<()> {
    let (from_one, to_one) = one.split();
    let (from_other, to_other) = other.split();
    let Methods {
        encrypt, compress, ..
    } = work.methods;
    let (client, server) = alone::session(encrypt)?;
    match work.role {
        Role::Client => tokio::try_join!(
            send(from_one, to_other, client.0, compress),
            receive(from_other, to_one, client.1, compress)
        )?,
        Role::Master => tokio::try_join!(unmask(from_one, to_other), unmask(from_other, to_one))?,
        Role::Server => tokio::try_join!(
            receive(from_one, to_other, server.1, compress),
            send(from_other, to_one, server.0, compress)
        )?,
    };
    Ok(())
}

fn mask(bytes: &mut [u8]) {
    for byte in bytes {
        *byte ^= MASK;
    }
}

async fn send(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut sealer: Sealer,
    method: CompressMethod,
) -> anyhow::Result<()> {
    let mut compressor = Compressor::new(method, Arc::new(Pool::default()));
    let (mut raw, mut message) = (
        BytesMut::with_capacity(RAW),
        BytesMut::with_capacity(2 * PIECE),
    );
    loop {
        message.clear();
        message.put_u32(0);
        if method == CompressMethod::Null {
            if from.read_buf(&mut (&mut message).limit(RAW)).await? == 0 {
                break;
            }
        } else {
            raw.clear();
            if from.read_buf(&mut raw).await? == 0 {
                break;
            }
            compressor.compress(&raw, &mut message);
        }
        sealer.seal(&mut message, HEADER)?;
        let length = u32::try_from(message.len() - HEADER)?;
        message[..HEADER].copy_from_slice(&length.to_be_bytes());
        mask(&mut message);
        to.write_all(&message).await?;
    }
    Ok(to.shutdown().await?)
}

async fn unmask(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        mask(&mut buffer[..length]);
        to.write_all(&buffer[..length]).await?;
    }
    Ok(to.shutdown().await?)
}

async fn receive(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut opener: Opener,
    method: CompressMethod,
) -> anyhow::Result<()> {
    let mut decompressor = Decompressor::new(method, Arc::new(Pool::default()));
    let mut buffer = BytesMut::with_capacity(2 * PIECE);
    loop {
        buffer.reserve(PIECE);
        if from.read_buf(&mut (&mut buffer).limit(PIECE)).await? == 0 {
            break;
        }
        while let Some(header) = buffer.first_chunk::<HEADER>() {
            let length = usize::try_from(u32::from_be_bytes(*header))?;
            if buffer.len() < HEADER + length {
                break;
            }
            buffer.advance(HEADER);
            let mut message = buffer.split_to(length);
            opener.open(&mut message)?;
            decompressor.push(message.freeze());
            while let Some(chunk) = decompressor.next().map_err(io::Error::other)? {
                to.write_all(&chunk.raw).await?;
            }
        }
    }
    Ok(to.shutdown().await?)
}
