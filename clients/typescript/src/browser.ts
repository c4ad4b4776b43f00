import type { ZombieClient } from "./client.js";

/** Asks for news when the page comes to the front and when the network is back. Returns what ends that. */
export function wakeOnReturn(client: ZombieClient): () => void {
  const shown = (): void => {
    if (document.visibilityState === "visible") client.wake();
  };
  const online = (): void => client.wake();
  document.addEventListener("visibilitychange", shown);
  window.addEventListener("online", online);
  return () => {
    document.removeEventListener("visibilitychange", shown);
    window.removeEventListener("online", online);
  };
}
