/** What Node has to offer: a directory as a storage. */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Storage } from "./storage.js";

/**
 * A directory in which each value is a file, of mode 0600. Every change is on the disk when it returns: a file beside,
 * fsync, rename, fsync of the directory. For one process at a time.
 */
export function fileStorage(directory: string): Storage {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const path = (name: string): string => join(directory, encodeURIComponent(name));
  return {
    get(name) {
      try {
        return readFileSync(path(name), "utf8");
      } catch (error) {
        if ((error as { code?: string }).code === "ENOENT") return null;
        throw error;
      }
    },
    set(name, value) {
      const beside = `${path(name)}.new`;
      synced(openSync(beside, "w", 0o600), (file) => writeFileSync(file, value));
      renameSync(beside, path(name));
      syncDirectory(directory);
    },
    remove(name) {
      rmSync(path(name), { force: true });
      syncDirectory(directory);
    },
  };
}

function synced(file: number, act: (file: number) => void): void {
  try {
    act(file);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function syncDirectory(directory: string): void {
  try {
    synced(openSync(directory, "r"), () => undefined);
  } catch (error) {
    // Windows opens no directories, and needs no fsync of one.
    if (!["EISDIR", "EPERM", "EACCES"].includes((error as { code?: string }).code ?? "")) throw error;
  }
}
