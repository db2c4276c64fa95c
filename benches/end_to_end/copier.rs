//! Copiers of TCP connections, of which three in a row are the chain. A chain that works does in its three processes what a tunnel with the
//! same methods has to do to each byte there, and nothing else: it compresses and seals at one end, masks as a WebSocket does, unmasks in the
//! middle, opens and decompresses at the other end. There is no tunnel in it: no streams that share anything, no windows, nothing that is
//! kept to be sent again. What rePort takes more than that is rePort's; what that takes more than the chain is the work.

use std::{io, net::SocketAddr, process::Command, str::FromStr, sync::Arc};

use anyhow::Context;
use bytes::{Buf, BufMut, BytesMut};
use report::{
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

/// What is read at once where it is sealed: with what is added to it, a piece.
const RAW: usize = PIECE - 1024;

/// Bytes before each sealed message, its length.
const HEADER: usize = 4;

/// What bytes are masked with. A byte, so that no process needs to know where a message began.
const MASK: u8 = 0x5a;

/// What a copier does besides: as whom, with which methods.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub role: Role,
    pub methods: Methods,
}

impl Work {
    /// As an argument of the program: the role, the cipher and the compressor.
    pub fn argument(self) -> String {
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
        let mut next = || parts.next().context("a role, a cipher and a compressor");
        let name = next()?;
        let role = Role::ALL
            .into_iter()
            .find(|role| role.name() == name)
            .context("a role")?;
        let methods = Methods {
            encrypt: next()?.parse()?,
            compress: next()?.parse()?,
            tls: false,
        };
        Ok(Work { role, methods })
    }
}

/// Starts a copier in a process of its own.
pub fn start(
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

/// Is a copier: each connection that it accepts is joined to one to `target`.
pub fn copy(target: SocketAddr, work: Option<Work>) -> anyhow::Result<()> {
    run(move |mut one| async move {
        let Ok(mut other) = TcpStream::connect(target).await else {
            return;
        };
        if other.set_nodelay(true).is_err() {
            return;
        }
        // A connection that breaks is noticed at its ends.
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
        Role::Visitor => tokio::try_join!(
            send(from_one, to_other, client.0, compress),
            receive(from_other, to_one, client.1, compress)
        )?,
        Role::Relay => tokio::try_join!(unmask(from_one, to_other), unmask(from_other, to_one))?,
        Role::Agent => tokio::try_join!(
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
