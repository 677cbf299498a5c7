-- What the acts of these tests reach from inside a transaction.
--
-- strike(n)    writes a row, here
-- tell(n)      notifies the channel `told`: leaves no transaction id
-- send(n)      writes a row in the other database, through dblink
create extension postgres_fdw;
create extension dblink;
create extension pg_trgm;
create server far foreign data wrapper postgres_fdw
  options (host '{sockets}', port '{port}', dbname 'far');
-- its COMMIT is done, and waits for a standby that doesn't exist
create server slow foreign data wrapper postgres_fdw
  options (host '{sockets}', port '{port}', dbname 'far', options '-c synchronous_commit=on');
create server dead foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1');
create user mapping for app server dead options (user 'app', password_required 'false');
create role reporter login;
create role tenant_user;
grant tenant_user, reporter to app;
alter role reporter set default_transaction_read_only = on;
create user mapping for app server far options (user 'app', password_required 'false');
create user mapping for app server slow options (user 'app', password_required 'false');
grant usage on foreign server far, slow, dead to app;
grant execute on function dblink_connect_u(text), dblink_connect_u(text, text) to app;
set role app;

create table marks (n int);
create table plain (n int primary key, note text);
insert into plain select g, 'row ' || g from generate_series(1, 100) g;
create foreign table far_marks (n int) server far options (table_name 'marks');
create foreign table slow_marks (n int) server slow options (table_name 'marks');
create foreign table dead_marks (n int) server dead;
create view far_view as select n from far_marks;
create view far_view_view as select n from far_view;
create table parts (n int) partition by range (n);
create foreign table parts_far partition of parts for values from (1) to (maxvalue)
  server far options (table_name 'marks');
create table parts_here partition of parts default;
create table ruled (n int);
create rule far_too as on insert to ruled do instead insert into far_marks values (new.n);
create table notified (n int);
create rule tell_too as on insert to notified do instead notify ruled;

create function strike(n int) returns int language plpgsql volatile as
  $$ begin insert into marks values (n); return n; end $$;
create function tell(n int) returns int language plpgsql as
  $$ begin perform pg_notify('told', n::text); return n; end $$;
create function tell_sql(n int) returns int language sql as
  $$ select pg_notify('told', n::text); select n $$;
create function tell_lying(n int) returns int language plpgsql immutable as
  $$ begin perform pg_notify('told', n::text); return n; end $$;
create function tell_execute(n int) returns int language plpgsql as
  $$ begin execute 'notify told, ' || quote_literal(n); return n; end $$;
create procedure tell_procedure(n int) language plpgsql as
  $$ begin perform pg_notify('told', n::text); end $$;
create procedure far_procedure(n int) language plpgsql as
  $$ begin insert into far_marks values (n); end $$;
create function send(n int) returns int language plpgsql as $$ begin
  if 'far' = any (dblink_get_connections()) then perform dblink_disconnect('far'); end if;
  perform dblink_connect_u('far', 'host={sockets} port={port} user=app dbname=far');
  perform dblink_exec('far', 'insert into marks values (' || n || ')');
  perform dblink_disconnect('far'); return n; end $$;
create function far_insert(n int) returns int language sql as
  $$ insert into far_marks values (n); select n $$;

-- each of the ways into a function that don't look like one, for strike and for tell
create type struck as (n int);
create type told as (n int);
create function hit(s struck) returns int language sql as $$ select strike(s.n) $$;
create function hit(s told) returns int language sql as $$ select tell(s.n) $$;
create function struck_of(n int, int) returns int language sql as $$ select strike(n) $$;
create function told_of(n int, int) returns int language sql as $$ select tell(n) $$;
create operator @!@ (leftarg = int, rightarg = int, function = struck_of);
create operator @?@ (leftarg = int, rightarg = int, function = told_of);
create function to_struck(n int) returns struck language sql as
  $$ select row(strike(n))::struck $$;
create function to_told(n int) returns told language sql as $$ select row(tell(n))::told $$;
create cast (int as struck) with function to_struck(int);
create cast (int as told) with function to_told(int);
create function is_struck(n int) returns bool language sql as $$ select strike(n) is not null $$;
create function is_told(n int) returns bool language sql as $$ select tell(n) is not null $$;
create domain struck_number as int check (is_struck(value));
create domain told_number as int check (is_told(value));
-- overloads of built-in names
create function lower(n int) returns int language sql as $$ select strike(n) $$;
create function upper(n int) returns int language sql as $$ select tell(n) $$;
create function add_struck(state int, n int) returns int language sql as $$ select strike(n) $$;
create function add_told(state int, n int) returns int language sql as $$ select tell(n) $$;
create aggregate sum_struck(int) (sfunc = add_struck, stype = int);
create aggregate sum_told(int) (sfunc = add_told, stype = int);

-- one row a number, so that a condition chooses who is struck
create table numbers (n int primary key);
insert into numbers select g from generate_series(1, 5000) g;
create view striking as select n, strike(n) as struck from numbers;
create view telling as select n, tell(n) as told from numbers;
create view striking_view as select n, struck from striking;
create view telling_view as select n, told from telling;
create table secured (n int primary key);
create table secured_told (n int primary key);
insert into secured select n from numbers;
insert into secured_told select n from numbers;
create policy struck on secured using (is_struck(n));
create policy told on secured_told using (is_told(n));
alter table secured enable row level security;
alter table secured force row level security;
alter table secured_told enable row level security;
alter table secured_told force row level security;

-- triggers that leave no transaction id: the row itself is never written
create table triggered (n int);
create function tell_instead() returns trigger language plpgsql as
  $$ begin perform pg_notify('told', new.n::text); return null; end $$;
create trigger tell before insert on triggered for each row execute function tell_instead();
create view triggered_view as select n from triggered;
create trigger tell instead of insert on triggered_view
  for each row execute function tell_instead();
create function at_the_end() returns trigger language plpgsql as
  $$ begin perform tell(new.n); return null; end $$;

create table secrets (tenant int, n int);
insert into secrets select g % 3, g from generate_series(1, 9) g;

-- executions are counted by a sequence, which no rollback takes back
create sequence executions;
create function fail(code text) returns int language plpgsql as $$ begin
  perform nextval('executions'); raise exception 'no' using errcode = code; end $$;
create function sleep_at_the_end() returns trigger language plpgsql as
  $$ begin perform nextval('executions'), pg_sleep(20); return null; end $$;
create table slowly (n int);
create constraint trigger slowly after insert on slowly deferrable initially deferred
  for each row execute function sleep_at_the_end();
create function sleep_before() returns trigger language plpgsql as
  $$ begin perform nextval('executions'), pg_sleep(20); return new; end $$;
create table slow_rows (n int);
create trigger slow before insert on slow_rows for each row execute function sleep_before();

-- state of a session, made where no client sees it
create function set_tenant(n int) returns int language plpgsql as
  $$ begin perform set_config('app.tenant', n::text, false); return n; end $$;
create function set_tenant_here(n int) returns int language plpgsql as
  $$ begin perform set_config('app.tenant', n::text, true); return n; end $$;
create function set_tenant_sql(n int) returns text language sql as
  $$ select set_config('app.tenant', n::text, false) $$;
create function be_reporter() returns int language plpgsql as
  $$ begin set role reporter; return 1; end $$;
create function lock_number(n int) returns int language plpgsql as
  $$ begin perform pg_advisory_lock(n); return n; end $$;
create function temporary(n int) returns int language plpgsql as $$ begin
  create temporary table if not exists kept (n int); insert into kept values (n); return n; end $$;
create function listen_in() returns int language plpgsql as
  $$ begin execute 'listen told'; return 1; end $$;
create procedure committing(n int) language plpgsql as
  $$ begin insert into marks values (n); commit; insert into marks values (-n); end $$;
create function message(n int) returns int language plpgsql as
  $$ begin perform pg_logical_emit_message(false, 'told', n::text); return n; end $$;
create view locking as select n, pg_try_advisory_lock(n) as locked from numbers;
create function set_tenant_aside(n int) returns int language plpgsql set work_mem = '1MB' as
  $$ begin perform set_config('app.tenant', n::text, false); return n; end $$;
create function take_number() returns int language sql as
  $$ select nextval('executions'); select 1 $$;
create procedure set_tenant_in(n int) language plpgsql as
  $$ begin perform set_config('app.tenant', n::text, false); end $$;
create view setting_tenant as select n, set_config('app.tenant', n::text, false) as set from numbers;
create view setting_tenant_view as select n, set from setting_tenant;

create table documents (tenant text, body text);
insert into documents values ('blue', 'b1'), ('blue', 'b2'), ('red', 'r1');
alter table documents enable row level security;
create policy own on documents using (tenant = current_setting('app.tenant', true));
grant select, insert on documents to tenant_user;
grant select, insert on all tables in schema public to reporter;
create function forget_all() returns int language plpgsql as
  $$ begin execute 'deallocate all'; return 1; end $$;
