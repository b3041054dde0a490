//! The files that say whose store this is.
//!
//! **Owns** the store's file (shards count) and each shard's (checksum secret, segment size).
//! **Lives on** the shard's core; the store's file is read by whoever starts the broker.
//! **Invariants** written once, durably, before anything else; a newer format is refused.
//! **Limits** one block each.
//! **Not here** keeping a second process out (runtime).

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::error::RecoverError;
use crate::format::{
    CHECKPOINT_FILE, FORMAT_VERSION, IDENTITY_BYTES, Identity, IdentityError, IdentityKind,
    STORE_FILE, segment_start, spare_number,
};

/// Reads the identity at `folder/name`, or creates it from `wanted`; says whether it did.
/// `folder` must be a direct child of the root, or the root itself (`""`).
///
/// # Errors
/// `NewerFormat`, `Damaged`, or the device's; `Damaged` as well where a shard's is missing and its
/// log is not.
pub async fn load_or_create<D: Disk>(
    disk: &D,
    kind: IdentityKind,
    (folder, name): (&str, &str),
    wanted: Identity,
) -> Result<(Identity, bool), RecoverError> {
    let path = if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    };
    match disk.open(&path, OpenMode::Existing).await {
        Ok(file) => read(kind, &path, &file)
            .await
            .map(|identity| (identity, false)),
        Err(error) if error.is_not_found() => {
            if matches!(kind, IdentityKind::Shard) {
                check_is_new(disk, (folder, &path)).await?;
            }
            create(disk, kind, (folder, &path), wanted).await?;
            Ok((wanted, true))
        }
        Err(error) => Err(error.into()),
    }
}

/// With another secret no run of a log fits its checksum: it would be taken for an empty one, and
/// written over. A first start makes none of these files before the identity is durable.
async fn check_is_new<D: Disk>(disk: &D, (folder, path): (&str, &str)) -> Result<(), RecoverError> {
    let entries = match disk.list(folder).await {
        Err(error) if error.is_not_found() => return Ok(()),
        listed => listed?,
    };
    let is_kept = |name: &str| {
        segment_start(name).is_some() || spare_number(name).is_some() || name == CHECKPOINT_FILE
    };
    let Some(kept) = entries.iter().find(|entry| is_kept(&entry.name)) else {
        return Ok(());
    };
    Err(RecoverError::Damaged {
        file: path.to_owned(),
        detail: format!(
            "it is missing, and with it the secret that the checksums of what lies beside it \
             need ({folder}/{}). Restore it from a copy, or move the shard's folder away: the \
             shard then starts empty",
            kept.name
        ),
    })
}

/// Reads the identity at `path`; makes none.
///
/// # Errors
/// `NewerFormat`, `Damaged`, or the device's, `NotFound` among them.
pub async fn load<D: Disk>(
    disk: &D,
    kind: IdentityKind,
    path: &str,
) -> Result<Identity, RecoverError> {
    let file = disk.open(path, OpenMode::Existing).await?;
    read(kind, path, &file).await
}

async fn read<F: DiskFile>(
    kind: IdentityKind,
    path: &str,
    file: &F,
) -> Result<Identity, RecoverError> {
    let block = file.read_at(0, IDENTITY_BYTES).await?;
    Identity::decode(kind, block.as_ref()).map_err(|error| match error {
        IdentityError::Newer(found) => RecoverError::NewerFormat {
            file: path.to_owned(),
            found,
            known: FORMAT_VERSION,
        },
        IdentityError::Damaged => RecoverError::Damaged {
            file: path.to_owned(),
            detail: "not an identity file of this program, or damaged".to_owned(),
        },
    })
}

async fn create<D: Disk>(
    disk: &D,
    kind: IdentityKind,
    (folder, path): (&str, &str),
    identity: Identity,
) -> Result<(), DiskError> {
    if !folder.is_empty() {
        disk.make_dir(folder).await?;
        disk.sync_dir("").await?;
    }
    // Written aside and renamed, so that a crash leaves all of it or nothing.
    let aside = format!("{path}.new");
    let file = disk
        .open(&aside, OpenMode::CreateLen(IDENTITY_BYTES as u64))
        .await?;
    let mut block = disk.alloc(IDENTITY_BYTES);
    identity.encode(kind, block.as_mut());
    file.write_at_and_sync(block, 0).await?;
    disk.rename(&aside, path).await?;
    disk.sync_dir(folder).await
}

/// What holds for the whole store; decided when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The store's random number.
    pub id: u64,
    /// How many shards it has, whatever the cores of today.
    pub shards_count: u8,
}

impl StoreIdentity {
    /// Reads the store's identity, or creates a store of `shards_count` shards. To be called once,
    /// before any shard is opened.
    ///
    /// # Errors
    /// `NewerFormat`, `Damaged`, or the device's; `Damaged` as well where the file is missing and
    /// there are shards of another count.
    pub async fn load_or_create<D: Disk>(disk: &D, shards_count: u8) -> Result<Self, RecoverError> {
        match disk.open(STORE_FILE, OpenMode::Existing).await {
            Err(error) if error.is_not_found() => check_shards(disk, shards_count).await?,
            _ => {}
        }
        let wanted = Identity {
            id: disk.random_u64(),
            segment_bytes: 0,
            shard: shards_count,
        };
        let place = ("", STORE_FILE);
        let (found, _) = load_or_create(disk, IdentityKind::Store, place, wanted).await?;
        Ok(Self {
            id: found.id,
            shards_count: found.shard,
        })
    }
}

/// The count says in which shard a queue is, so a store that has lost it is only gone on with as
/// its folders show it.
async fn check_shards<D: Disk>(disk: &D, shards_count: u8) -> Result<(), RecoverError> {
    let entries = disk.list("").await?;
    let folders = entries.iter().filter(|entry| entry.is_dir);
    let numbers = folders.filter_map(|entry| entry.name.strip_prefix("shard-")?.parse().ok());
    let Some(last) = numbers.max() else {
        return Ok(());
    };
    let last: u8 = last;
    let shown = u16::from(last) + 1;
    if shown == u16::from(shards_count) {
        tracing::warn!(
            "{STORE_FILE} is missing: it is made anew, for the {shown} shards that are here"
        );
        return Ok(());
    }
    Err(RecoverError::Damaged {
        file: STORE_FILE.to_owned(),
        detail: format!(
            "it is missing, and with it how many shards the store has: the folders up to \
             shard-{last} say {shown}, this start would make it {shards_count} and look for queues \
             in the wrong ones. Restore it from a copy, or, if no folder is missing, set \
             shardCount={shown}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;

    #[test]
    fn a_store_keeps_its_shards() {
        let disk = SimDisk::new(1);
        let first = disk
            .block_on(StoreIdentity::load_or_create(&disk, 4))
            .unwrap();
        disk.cut_power();
        let again = disk
            .block_on(StoreIdentity::load_or_create(&disk, 2))
            .unwrap();
        assert_eq!(first, again);
        disk.flip_bit(STORE_FILE, 4, 1);
        let newer = disk.block_on(StoreIdentity::load_or_create(&disk, 2));
        assert!(matches!(
            newer,
            Err(RecoverError::NewerFormat { found: 3, .. })
        ));
    }

    /// Queues would be looked for in other shards than they are in.
    #[test]
    fn a_store_that_lost_its_count_is_gone_on_with_as_its_folders_show_it() {
        let disk = SimDisk::new(2);
        disk.block_on(async {
            StoreIdentity::load_or_create(&disk, 3).await.unwrap();
            for folder in ["shard-0", "shard-2", "shard-x", "tables"] {
                disk.make_dir(folder).await.unwrap();
                let file = format!("{folder}/file");
                disk.open(&file, OpenMode::CreateLen(4096)).await.unwrap();
            }
            disk.remove(STORE_FILE).await.unwrap();
            for other in [1, 2, 4] {
                let refused = StoreIdentity::load_or_create(&disk, other).await;
                let why = refused.unwrap_err().to_string();
                assert!(why.contains("set shardCount=3"), "{why}");
            }
            assert!(!disk.file_names().iter().any(|name| name == STORE_FILE));
            let made = StoreIdentity::load_or_create(&disk, 3).await.unwrap();
            let again = StoreIdentity::load_or_create(&disk, 2).await.unwrap();
            assert_eq!((made, made.shards_count), (again, 3));
        });
    }
}
