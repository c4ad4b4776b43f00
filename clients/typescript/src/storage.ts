/** Where an app keeps things: texts by name. What a client needs of AsyncStorage, localStorage, MMKV, a directory. */

/**
 * `set` replaces a value whole or not at all, and has kept it when it resolves (or returns). Values have 400 KB at most.
 * A storage that can be used by several processes or tabs at once has `lock`; without it there must be only one client.
 */
export interface Storage {
  get(name: string): Promise<string | null | undefined> | string | null | undefined;
  set(name: string, value: string): Promise<void> | void;
  remove(name: string): Promise<void> | void;
  /** Takes a lock by name if it is free: what lets go of it. Null where another has it. */
  lock?(name: string): Promise<(() => void) | null>;
}

/** Memory: nothing survives the process. */
export function memoryStorage(): Storage {
  const values = new Map<string, string>();
  return {
    get: (name) => values.get(name),
    set: (name, value) => void values.set(name, value),
    remove: (name) => void values.delete(name),
  };
}

interface AsyncStorageLike {
  getItem(name: string): Promise<string | null> | string | null;
  setItem(name: string, value: string): Promise<void> | void;
  removeItem(name: string): Promise<void> | void;
}

/** A storage with getItem, setItem and removeItem: React Native's AsyncStorage. */
export function asyncStorage(items: AsyncStorageLike): Storage {
  return {
    get: (name) => items.getItem(name),
    set: (name, value) => items.setItem(name, value),
    remove: (name) => items.removeItem(name),
  };
}

/**
 * A browser's localStorage, with its locks where it has them (Web Locks API: every browser since 2022, on https). Tabs
 * share the document, and each sends writes of its own.
 */
export function webStorage(items?: AsyncStorageLike): Storage {
  const locks = (globalThis as { navigator?: { locks?: LockManager } }).navigator?.locks;
  // Looked up late: where a user has forbidden storage the look itself throws, and the app must start all the same.
  const found = (): AsyncStorageLike => items ?? globalThis.localStorage;
  const plain: Storage = {
    get: (name) => found().getItem(name),
    set: (name, value) => found().setItem(name, value),
    remove: (name) => found().removeItem(name),
  };
  return locks === undefined ? plain : { ...plain, lock: (name) => locked(locks, name) };
}

function locked(locks: LockManager, name: string): Promise<(() => void) | null> {
  return new Promise((resolve, reject) => {
    const held = locks.request(name, { ifAvailable: true }, (lock) => {
      if (lock === null) {
        resolve(null);
        return undefined;
      }
      // Held until this promise ends.
      return new Promise<void>((release) => resolve(() => release()));
    });
    held.catch(reject);
  });
}
