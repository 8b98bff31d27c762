package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/server"
	"kmsfs/keysource/local"
)

// defaultListen is where the server listens where neither --listen nor systemd says otherwise.
const defaultListen = "127.0.0.1:4599"

// kmsServer is the flags of kmsfs kms serve.
type kmsServer struct {
	keyFlags
	listen          []string
	tlsCert, tlsKey string
	user            string
	audit           string
	auditSync       time.Duration
	auditMaxSize    int64
	timeout         time.Duration
	connections     int
	debug           bool
}

// kmsServeCommand is kmsfs kms serve.
func (a *app) kmsServeCommand() *cobra.Command {
	var k kmsServer
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the key store behind the protocol of AWS KMS",
		Long: `Serve the key store behind the protocol of AWS KMS until a signal ends it, and print where, one URL a line. Requests are
signed (Signature Version 4) for the service kms and the region of the key store; each call is written to the audit log
before it is answered. GET /healthz and GET /metrics need no signature.

Plain HTTP is served on the loopback and on unix sockets alone; elsewhere give --tls-cert and --tls-key, which are read
again on SIGHUP. Where systemd passes sockets, these are served and --listen may be missing.

The process locks its memory, cannot be dumped or traced, and can start no program. As root, give --user: the key store is
opened first, then all privileges are dropped; that user must own the key store, but for the master key file, which stays
root's, so that the user cannot read it. Without root, the memory is locked only where the limit RLIMIT_MEMLOCK is
infinite.

The audit log is by default audit.log in the key store. A line is in the file before its call is answered, and durable at
most --audit-sync later; 0 makes each line durable before its call is answered.`,
		Example: `  kmsfs kms serve --key-store /srv/keys --listen 127.0.0.1:4599
  sudo kmsfs kms serve --key-store /srv/keys --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem --user kms
  kmsfs kms serve --listen unix:/run/kms/kms.sock`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.kmsServe(cmd.Context(), &k) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	k.addStore(f)
	f.StringArrayVar(&k.listen, "listen", nil, "`ADDRESS` to listen on, HOST:PORT or unix:PATH, several times if need be (default "+defaultListen+")")
	f.StringVar(&k.tlsCert, "tls-cert", "", "`FILE` with the certificate chain, PEM")
	f.StringVar(&k.tlsKey, "tls-key", "", "`FILE` with the key of the certificate, PEM")
	f.StringVar(&k.user, "user", "", "`NAME` of the user to become after the key store is open")
	f.StringVar(&k.audit, "audit", "", "`FILE` of the audit log (default: audit.log in the key store)")
	f.DurationVar(&k.auditSync, "audit-sync", audit.DefaultSyncEvery, "`TIME` within which a line of the audit log is durable (default 100ms)")
	f.Int64Var(&k.auditMaxSize, "audit-max-size", 0, "`BYTES` past which the audit log is renamed and a new one begun (default never)")
	f.DurationVar(&k.timeout, "timeout", 0, "longest `TIME` of a call (default 20s)")
	f.IntVar(&k.connections, "max-connections", 0, "`NUMBER` of connections served at once (default 1024)")
	f.BoolVar(&k.debug, "debug", false, "log more")
	return cmd
}

// check refuses flags that contradict each other.
func (k *kmsServer) check() error {
	switch {
	case (k.tlsCert == "") != (k.tlsKey == ""):
		return hintf(faultf(errUsage, "--tls-cert and --tls-key belong together"), "kmsfs kms serve --tls-cert FILE --tls-key FILE")
	case k.auditSync < 0 || k.auditMaxSize < 0 || k.timeout < 0 || k.connections < 0:
		return hintf(faultf(errUsage, "a flag is negative"), "kmsfs kms serve --help")
	case k.auditMaxSize > 0 && k.auditMaxSize < audit.MaxRecordSize:
		return hintf(faultf(errUsage, "--audit-max-size is less than one line may have"), "--audit-max-size %d", 64<<20)
	}
	return nil
}

// kmsServe is the life of the server. What follows needs less and less: sockets and the master key first, then no more
// than the user of the server may do.
func (a *app) kmsServe(ctx context.Context, k *kmsServer) error {
	if err := k.check(); err != nil {
		return err
	}
	level := slog.LevelInfo
	if k.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	if err := harden(a.env); err != nil {
		return err
	}
	syscall.Umask(0o077)
	as, err := a.serverUser(k.user)
	if err != nil {
		return err
	}
	if err := lockMemory(as); err != nil {
		log.Warn("memory is not locked: keys may reach the swap", "error", err)
	}
	certificate, listeners, err := a.kmsListeners(k, as)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	later := &serverLater{}
	k.event = func(e local.Event) { later.do(func(s *server.Server) { s.Event(e) }) }
	return k.with(ctx, a, absenceFails, func(store *local.Store) error {
		dir, err := k.storeDir(a)
		if err != nil {
			return err
		}
		if err := as.become(dir); err != nil {
			return err
		}
		if err := confine(); err != nil {
			log.Warn("the process could still start programs", "error", err)
		}
		if a.uid == 0 && as == nil {
			log.Warn("the server keeps the privileges of root; --user NAME drops them")
		}
		if k.audit == "" {
			k.audit = filepath.Join(dir, "audit.log")
		}
		return a.kmsRun(ctx, k, store, certificate, listeners, later, log)
	})
}
