//! Sealing and opening, and the primitives they use.

use std::{hint::black_box, time::Instant};

use aes::{
    Aes128,
    cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit},
};
use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hmac::{self, HMAC_SHA256},
};
use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use report::random;
use report_proto::crypto::{
    EncryptMethod, Opener, PortKeys, Sealer,
    cfb::{CfbDecryptor, CfbEncryptor},
    handshake::{Initiator, Responder},
    seal::OVERHEAD,
};

use crate::data::{self, SIZES};

const KEY: [u8; 16] = [1; 16];
const IV: [u8; 16] = [2; 16];

/// Measures every method at every size, then the primitives.
pub(crate) fn bench(criterion: &mut Criterion) {
    methods(criterion);
    cfb(criterion);
    primitives(criterion);
}

fn session(method: EncryptMethod) -> (Sealer, Opener) {
    let keys = PortKeys::derive("benchmark");
    let (initiator, first) =
        Initiator::start(&keys.psk, keys.id, b"", random::bytes()).expect("a first message");
    let (responder, _) =
        Responder::read(&keys.psk, keys.id, &first, random::bytes()).expect("our own message");
    let (second, server) = responder.finish(b"").expect("a second message");
    let (_, client) = initiator.finish(&second).expect("our own message");
    (client.initiator(method).0, server.responder(method).1)
}

fn methods(criterion: &mut Criterion) {
    let random = data::random(SIZES[2]);
    for method in EncryptMethod::ALL {
        let (mut sealer, mut opener) = session(method);
        let mut group = criterion.benchmark_group(format!("seal/{method}"));
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let mut buffer = BytesMut::with_capacity(size + OVERHEAD);
            buffer.extend_from_slice(&random[..size]);
            let (mut only_sealer, _) = session(method);
            group.bench_function(BenchmarkId::new("seal", size), |bencher| {
                bencher.iter(|| {
                    buffer.truncate(size);
                    only_sealer.seal(&mut buffer, 0).expect("numbers are left");
                });
            });
            group.bench_function(BenchmarkId::new("open", size), |bencher| {
                let sealed = || {
                    let mut buffer = BytesMut::with_capacity(size + OVERHEAD);
                    buffer.extend_from_slice(&random[..size]);
                    sealer.seal(&mut buffer, 0).expect("numbers are left");
                    buffer
                };
                let open = |mut buffer: BytesMut| {
                    opener.open(&mut buffer).expect("the next message");
                    buffer
                };
                bencher.iter_batched(sealed, open, BatchSize::NumIterations(8));
            });
        }
    }
}

/// Compares this crate's CFB state with the block calls of `cfb-mode`.
fn cfb(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cfb");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut data = data::random(size);
        let mut encryptor = CfbEncryptor::new(&KEY, &IV);
        group.bench_function(BenchmarkId::new("encrypt", size), |bencher| {
            bencher.iter(|| encryptor.encrypt(&mut data))
        });
        group.bench_function(BenchmarkId::new("encrypt_blocks", size), |bencher| {
            let mut blocks = cfb_mode::Encryptor::<Aes128>::new(&KEY.into(), &IV.into());
            bencher.iter(|| blocks.encrypt_blocks(Array::slice_as_chunks_mut(&mut data).0));
        });
        let mut decryptor = CfbDecryptor::new(&KEY, &IV);
        group.bench_function(BenchmarkId::new("decrypt", size), |bencher| {
            bencher.iter(|| decryptor.decrypt(&mut data))
        });
        group.bench_function(BenchmarkId::new("decrypt_blocks", size), |bencher| {
            let mut blocks = cfb_mode::Decryptor::<Aes128>::new(&KEY.into(), &IV.into());
            bencher.iter(|| blocks.decrypt_blocks(Array::slice_as_chunks_mut(&mut data).0));
        });
    }
}

fn primitives(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("primitive");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut data = data::random(size);
        let mac = hmac::Key::new(HMAC_SHA256, &[3; 32]);
        group.bench_function(BenchmarkId::new("hmac-sha-256", size), |bencher| {
            bencher.iter(|| hmac::sign(&mac, &data))
        });
        let aeads: [(&str, &'static Algorithm); 2] = [
            ("aes-128-gcm", &AES_128_GCM),
            ("chacha20-poly1305", &CHACHA20_POLY1305),
        ];
        for (name, algorithm) in aeads {
            let key = LessSafeKey::new(
                UnboundKey::new(algorithm, &vec![4; algorithm.key_len()])
                    .expect("the key's length"),
            );
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    let nonce = Nonce::assume_unique_for_key([0; 12]);
                    key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut data)
                        .map(|tag| black_box(tag).as_ref().len())
                });
            });
        }
    }
}

/// Prints the ratio of this crate's CFB state to the block calls of `cfb-mode`.
///
/// The two alternate, so that a machine with varying speed does not change the ratio.
pub(crate) fn print_cfb_ratios() {
    println!("\ncfb: rePort and the block calls of cfb-mode, medians of 301 rounds");
    for size in SIZES {
        let mut data = data::random(size);
        let (mut encryptor, mut decryptor) =
            (CfbEncryptor::new(&KEY, &IV), CfbDecryptor::new(&KEY, &IV));
        let mut encrypt_blocks = cfb_mode::Encryptor::<Aes128>::new(&KEY.into(), &IV.into());
        let mut decrypt_blocks = cfb_mode::Decryptor::<Aes128>::new(&KEY.into(), &IV.into());
        type Call<'a> = &'a mut dyn FnMut(&mut [u8]);
        let mut calls: [Call<'_>; 4] = [
            &mut |data| encryptor.encrypt(data),
            &mut |data| encrypt_blocks.encrypt_blocks(Array::slice_as_chunks_mut(data).0),
            &mut |data| decryptor.decrypt(data),
            &mut |data| decrypt_blocks.decrypt_blocks(Array::slice_as_chunks_mut(data).0),
        ];
        let mut nanoseconds = [const { Vec::new() }; 4];
        for _ in 0..301 {
            for (call, times) in calls.iter_mut().zip(&mut nanoseconds) {
                let repeat = (1 << 20) / size;
                let start = Instant::now();
                (0..repeat).for_each(|_| call(black_box(&mut data)));
                times.push(start.elapsed().as_nanos() / repeat as u128);
            }
        }
        let rates = nanoseconds.map(|mut times| {
            times.sort_unstable();
            size as f64 * 1000.0 / times[times.len() / 2] as f64
        });
        let [encrypt, encrypt_blocks, decrypt, decrypt_blocks] = rates;
        println!(
            "  {size:>6} bytes: encrypt {encrypt:>5.0} of {encrypt_blocks:>5.0} MB/s ({:>3.0}%), decrypt {decrypt:>5.0} of {decrypt_blocks:>5.0} MB/s ({:>3.0}%)",
            100.0 * encrypt / encrypt_blocks,
            100.0 * decrypt / decrypt_blocks,
        );
    }
}
