// The few functions of Node that node.ts calls, so that the package needs no types of Node's.
declare module "node:fs" {
  export function mkdirSync(path: string, options: { recursive: boolean; mode: number }): void;
  export function openSync(path: string, flags: string, mode?: number): number;
  export function writeFileSync(file: number, text: string): void;
  export function fsyncSync(file: number): void;
  export function closeSync(file: number): void;
  export function renameSync(from: string, to: string): void;
  export function rmSync(path: string, options: { force: boolean }): void;
  export function readFileSync(path: string, encoding: "utf8"): string;
}
declare module "node:path" {
  export function join(...parts: string[]): string;
}
