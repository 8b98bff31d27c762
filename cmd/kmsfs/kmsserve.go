package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
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
	f.DurationVar(&k.auditSync, "audit-sync", audit.DefaultSyncEvery, "`TIME` within which a line of the audit log is durable")
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
		return a.kmsRun(ctx, k, store, certificate, listeners, log)
	})
}

// kmsListeners reads the certificate and opens the sockets.
func (a *app) kmsListeners(k *kmsServer, as *serverUser) (*server.Certificate, []*server.Listener, error) {
	var certificate *server.Certificate
	var config *tls.Config
	if k.tlsCert != "" {
		var err error
		if certificate, err = server.LoadCertificate(k.tlsCert, k.tlsKey); err != nil {
			return nil, nil, hintf(faultf(errUsage, "%w", err), "both files are PEM, and the key is that of the first certificate")
		}
		config = certificate.Config()
	}
	inherited, err := a.inheritedSockets()
	if err != nil {
		return nil, nil, err
	}
	addresses := k.listen
	if len(addresses) == 0 && len(inherited) == 0 {
		addresses = []string{defaultListen}
	}
	var listeners []*server.Listener
	add := func(l *server.Listener, err error) error {
		if err == nil {
			listeners = append(listeners, l)
		}
		return err
	}
	for _, l := range inherited {
		err = errors.Join(err, add(server.Inherit(l, config)))
	}
	for _, address := range addresses {
		if err == nil {
			err = add(server.Listen(address, config))
		}
	}
	if err == nil {
		err = as.own(listeners)
	}
	if err != nil {
		closeAll(listeners)
		return nil, nil, err
	}
	return certificate, listeners, nil
}

// closeAll closes listeners; those that are closed stay so.
func closeAll(listeners []*server.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// kmsRun serves until ctx ends.
func (a *app) kmsRun(ctx context.Context, k *kmsServer, store *local.Store, certificate *server.Certificate,
	listeners []*server.Listener, log *slog.Logger) (err error) {
	account, region := store.Account()
	cfg := audit.Config{Path: k.audit, SyncEvery: k.auditSync, MaxSize: k.auditMaxSize, Logger: log}
	if k.auditSync == 0 {
		cfg.SyncEvery = -1
	}
	trail, err := audit.Open(cfg)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	log.Info("audit log", "path", k.audit, "sequence", trail.Head().Sequence, "head", trail.Head().String())
	defer func() {
		err = errors.Join(err, trail.Close())
		log.Info("audit log closed", "sequence", trail.Head().Sequence, "head", trail.Head().String())
	}()
	users, err := identity.Open(store, identity.Config{Logger: log})
	if err != nil {
		return err
	}
	if users.Empty() {
		log.Warn("nobody can call: there is no access key; kmsfs kms user create NAME, then kmsfs kms user key create NAME")
	}
	s, err := server.New(server.Config{Service: kms.New(store, kms.Config{}), Users: users, Audit: trail, Keys: store, Account: account,
		Region: region, Timeout: k.timeout, MaxConnections: k.connections, Logger: log})
	if err != nil {
		return err
	}
	for _, l := range listeners {
		fmt.Fprintln(a.stdout, endpoint(l.Addr(), certificate != nil))
	}
	log.Info("serving", "region", region, "account", account)
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	defer signal.Stop(reloads)
	a.tellSystemd(log, "READY=1")
	serving, end := context.WithCancel(ctx)
	defer end()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		reloadOn(serving, reloads, certificate, log)
	}()
	context.AfterFunc(serving, func() { a.tellSystemd(log, "STOPPING=1") })
	err = s.Serve(serving, listeners...)
	end()
	<-watched
	return err
}

// endpoint is how a client names where the server listens.
func endpoint(at net.Addr, encrypted bool) string {
	switch {
	case at.Network() == "unix":
		return server.UnixPrefix + at.String()
	case encrypted:
		return "https://" + at.String()
	}
	return "http://" + at.String()
}

// reloadOn reads the certificate again on each signal, until ctx ends.
func reloadOn(ctx context.Context, signals <-chan os.Signal, certificate *server.Certificate, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		if certificate == nil {
			continue
		}
		if err := certificate.Reload(); err != nil {
			log.Error("the certificate cannot be read again, using the one from before", "error", err)
			continue
		}
		log.Info("the certificate was read again")
	}
}
