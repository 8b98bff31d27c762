package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"kmsfs/fs/vault/bug"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/kms/server"
	"kmsfs/keysource/local"
)

// kmsRun serves until ctx ends.
func (a *app) kmsRun(ctx context.Context, k *kmsServer, store *local.Store, certificate *server.Certificate,
	listeners []*server.Listener, later *serverLater, log *slog.Logger) (err error) {
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
	users, err := identity.Open(store, identity.Config{Logger: log, Changed: func(all []identity.Change) {
		later.do(func(s *server.Server) { s.Changed(all) })
	}})
	if err != nil {
		return err
	}
	if users.Empty() {
		log.Warn("nobody can call: there is no access key; kmsfs kms user create NAME, then kmsfs kms user key create NAME")
	}
	s, err := server.New(server.Config{Service: kms.New(store, kms.Config{}), Users: users, Audit: trail, Account: account,
		Region: region, Due: func(ctx context.Context) error { _, err := store.ListKeys(ctx); return err }, Timeout: k.timeout, MaxConnections: k.connections, Logger: log, Bug: bug.Attrs})
	if err != nil {
		return err
	}
	later.is(s)
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

// serverLater is a server for who has something to tell it before it is made.
type serverLater struct {
	mu   sync.Mutex
	s    *server.Server
	kept []func(*server.Server)
}

// do calls f with the server, now or when there is one.
func (l *serverLater) do(f func(*server.Server)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s == nil {
		l.kept = append(l.kept, f)
		return
	}
	f(l.s)
}

// is says that there is a server.
func (l *serverLater) is(s *server.Server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.kept {
		f(s)
	}
	l.s, l.kept = s, nil
}
