// Preloaded into servers that would listen on every interface: keeps them on 127.0.0.1
// and prints `ready <port>` once they listen, so that PORT=0 is usable. Knows no server by name.
import net from 'node:net';

const listen = net.Server.prototype.listen;

net.Server.prototype.listen = function (...args) {
  const callback = args.findLast((value) => typeof value === 'function');
  const port = typeof args[0] === 'object' ? args[0].port : Number(args[0]);
  this.once('listening', () => process.stdout.write(`ready ${this.address().port}\n`));
  return listen.call(this, { port, host: '127.0.0.1' }, callback);
};
